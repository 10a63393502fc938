#include "provision/hosted_sandbox.h"

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>
#include <boost/asio/bind_executor.hpp>
#include <boost/asio/post.hpp>

#include "support/time.h"

namespace faaskit {
namespace {

using std::chrono::milliseconds;

// A dead sandbox's pidfd and channel are told of in any order; the caller's answer waits this long for the
// other, so that it can name the cause.
constexpr milliseconds kCauseWait{50};
// Killed and still not reaped: kill again, and say so.
constexpr milliseconds kKillWait{1000};
// Of one that the loop cannot watch.
constexpr milliseconds kUnwatchedWait{20};
constexpr milliseconds kFirstRemove{1};
constexpr milliseconds kMaxRemove{50};
// After this the groups are left to the freezer, which removes them when it goes.
constexpr milliseconds kRemoveBudget{5000};
constexpr milliseconds kFirstOfferRepeat{50};
constexpr milliseconds kMaxOfferRepeat{1000};

}  // namespace

// ---- birth

void HostedSandbox::born(NewSandbox made) {
  seat_ = std::move(made.seat);
  code_ = std::move(made.code);
  start_phases_ = made.phases;
  running_since_ = made.running_since;
  SandboxHandles& handles = made.handles;
  pid_ = handles.pid;
  cgroup_ = seat_->path();
  shown_.store(true, std::memory_order_release);
  const absl::Status watched = watch(handles);
  watch_exit();
  output_.watch(weak_from_this());
  if (machine_.ending()) {  // stopped while it was being made
    (void)seat_->kill();
    return await_end();
  }
  if (!watched.ok()) {
    start_error_ = watched;
    return destroy(watched);
  }
  absl::StatusOr<std::unique_ptr<Channel>> channel =
      context_->parts.channels->open(std::move(handles.channel), shard_.executor);
  if (!channel.ok()) {
    start_error_ = channel.status();
    return destroy(channel.status());
  }
  channel_ = *std::move(channel);
  channel_->on_closed([weak = weak_from_this()](absl::Status why) {
    if (auto self = weak.lock()) self->on_channel_closed(std::move(why));
  });
  channel_->async_hello([weak = weak_from_this()](absl::StatusOr<Hello> hello) {
    if (auto self = weak.lock()) self->on_hello(std::move(hello));
  });
}

absl::Status HostedSandbox::watch(SandboxHandles& handles) {
  absl::Status status;
  boost::system::error_code error;
  const auto note = [&](const char* what) {
    status = absl::ResourceExhaustedError(
        absl::StrCat("watch the ", what, " of ", to_string(sandbox().id), ": ", error.message()));
  };
  pidfd_.assign(handles.pidfd.get(), error);
  if (error) {
    note("end");
    unwatched_ = std::move(handles.pidfd);
  } else {
    (void)handles.pidfd.release();
  }
  error = output_.open(handles.output, shard_.executor);
  if (error) note("output");
  return status;
}

void HostedSandbox::not_born(absl::Status why) {
  machine_.end();
  machine_.reaped();
  context_->was_reaped(shared_from_this(), dismissed_ ? absl::OkStatus() : std::move(why));
}

void HostedSandbox::on_hello(absl::StatusOr<Hello> hello) {
  if (machine_.ending()) return;
  if (!hello.ok()) {
    start_error_ = hello.status();
    return destroy(hello.status());
  }
  const auto took = context_->now() - running_since_;
  start_phases_.set(Phase::hello, took);
  // Claims, but none that outlasts what was measured.
  if (hello->runtime_time.count() > 0)
    start_phases_.set(Phase::runtime, std::min<Duration>(hello->runtime_time, took));
  if (hello->init_time.count() > 0)
    start_phases_.set(Phase::init, std::min<Duration>(hello->init_time, took));
  warm_up();
}

// One payload after the other; then it is ready. Its output is the sandbox's own, and no use is counted.
void HostedSandbox::warm_up() {
  if (warmed_up_ == function_->warm_up.size()) return become_ready();
  const WarmUp& next = function_->warm_up[warmed_up_];
  warming_up_ = true;
  const TimePoint now = context_->now();
  const TimePoint deadline = after(now, next.timeout);
  set(Alarm::deadline, deadline);
  channel_->begin_call({.timeout = std::chrono::duration_cast<std::chrono::microseconds>(deadline - now),
                        .content_type = next.content_type,
                        .metadata = next.metadata,
                        .payload = next.payload},
                       [weak = weak_from_this()](CallResult result) {
                         if (auto self = weak.lock()) self->on_warm_up_end(result);
                       });
}

void HostedSandbox::on_warm_up_end(const CallResult& result) {
  if (machine_.ending()) return;
  clear(Alarm::deadline);
  if (!result.status.ok()) return warm_up_failed(result.status);
  if (!result.reply.function_status.ok()) return warm_up_failed(result.reply.function_status);
  warming_up_ = false;
  ++warmed_up_;
  warm_up();
}

void HostedSandbox::warm_up_failed(const absl::Status& why) {
  start_error_ = absl::UnavailableError(absl::StrCat(describe_warm_up(), ": ", std::string(why.message())));
  destroy(start_error_);
}

std::string HostedSandbox::describe_warm_up() const {
  return absl::StrFormat("warm-up %d of %d", warmed_up_ + 1, function_->warm_up.size());
}

void HostedSandbox::become_ready() {
  const TimePoint now = context_->now();
  offer(machine_.ready(now));
  if (machine_.idle()) rest(now);
}

// ---- offers: repeated until the queue knows

void HostedSandbox::offer(const Offer& offer) {
  last_offer_ = offer.generation;
  offer_timer_.reset();
  OfferParams params{.function = function_->handle, .offer = offer};
  if (std::optional<absl::Status> status = context_->parts.idle->try_offer(params))
    return offered(offer, *status);
  context_->parts.idle->async_offer(
      std::move(params),
      asio::bind_executor(shard_.executor, [weak = weak_from_this(), offer](absl::Status status) {
        if (auto self = weak.lock()) self->offered(offer, status);
      }));
}

void HostedSandbox::offered(const Offer& offer, const absl::Status& status) {
  if (status.ok()) {
    offer_wait_ = {};
    machine_.offer_acknowledged(offer.generation);
    if (offer.fresh() && !machine_.ending()) context_->became_ready(*this);
    return;
  }
  if (machine_.ending()) return;
  if (!absl::IsUnavailable(status)) return destroy(status);  // not wanted: drained, older version
  if (offer.generation != last_offer_) return;
  offer_wait_ = std::clamp<Duration>(offer_wait_ * 2, kFirstOfferRepeat, kMaxOfferRepeat);
  offer_timer_ = context_->parts.clock->make_timer(shard_.executor);
  offer_timer_->arm(after(context_->now(), offer_wait_), [this, offer] {
    // The timer goes with this object; and `offer` with the timer, so a copy is used.
    const Offer again = offer;
    if (!machine_.ending() && again.generation == last_offer_) this->offer(again);
  });
}

void HostedSandbox::answer_lease(Token token, const LeaseId& lease, bool suspect) {
  if (std::optional<Offer> back = machine_.answer_lease(token, lease, suspect)) offer(*back);
}

// ---- a call

void HostedSandbox::call(HostCall call, asio::any_io_executor home, Handler<HostReply> done) {
  const TimePoint now = context_->now();
  HostReply refusal;
  if (call.deadline <= now) {
    // Not admitted, so nothing is in doubt.
    refusal.status = absl::DeadlineExceededError(
        absl::StrCat("call on ", to_string(sandbox().id), ": the deadline had passed before it began"));
    refusal.never_began = refusal.clean = true;
  }
  SandboxMachine::Admission admission;
  if (refusal.status.ok()) {
    admission = machine_.admit(call.token, call.lease, now);
    refusal.status = std::move(admission.status);
    refusal.never_began = true;
  }
  if (!refusal.status.ok()) {
    refusal.payload = std::move(call.payload);
    return complete(home, std::move(done), std::move(refusal));
  }

  uses_.store(machine_.uses(), std::memory_order_relaxed);
  output_.begin(call.lease.request);
  if (context_->options.measure_memory) seat_->reset_peak();
  ChannelCall out{.token = call.token,
                  .lease = call.lease,
                  .timeout = std::chrono::duration_cast<std::chrono::microseconds>(call.deadline - now),
                  .idle_for = std::chrono::duration_cast<std::chrono::microseconds>(admission.idle_for),
                  .trace = std::move(call.trace),
                  .content_type = std::move(call.content_type),
                  .metadata = std::move(call.metadata),
                  .payload = std::move(call.payload),
                  .stream = std::move(call.stream)};
  running_.emplace(std::move(call), std::move(home), std::move(done));
  running_->begun = now;
  running_->thawed = admission.thaw;
  // Send first, thaw second, in one turn and with nothing awaited between: the call is there when it wakes,
  // and one wake-up serves both.
  if (admission.ping) {
    running_->held.emplace(std::move(out));
    ping();
  } else {
    begin_call(std::move(out));
  }
  absl::Status thawed;
  if (admission.thaw) {
    const TimePoint begun = context_->now();
    thawed = seat_->thaw();
    running_->phases.set(Phase::thaw, context_->now() - begun);
  }
  machine_.publish_busy();
  if (machine_.uses() == 1) running_->phases.merge(start_phases_);
  if (const auto froze = std::exchange(freeze_time_, Phases::kAbsent); froze != Phases::kAbsent)
    running_->phases.set(Phase::freeze, froze);
  if (!thawed.ok()) destroy(std::move(thawed));
}

void HostedSandbox::begin_call(ChannelCall call) {
  set(Alarm::deadline, running_->call.deadline);
  channel_->begin_call(std::move(call), [weak = weak_from_this()](CallResult result) {
    if (auto self = weak.lock()) self->on_call_end(std::move(result));
  });
}

// ---- a ping before the call

void HostedSandbox::ping() {
  const TimePoint gives_up = after(running_->begun, function_->lifetime.ping_timeout);
  set(Alarm::deadline, std::min(gives_up, running_->call.deadline));
  channel_->ping([weak = weak_from_this()](const absl::Status& status) {
    if (auto self = weak.lock()) self->on_pong(status);
  });
}

void HostedSandbox::on_pong(const absl::Status& status) {
  if (!pinging()) return;  // given up meanwhile
  if (!status.ok()) return destroy(status);
  ChannelCall call = *std::move(running_->held);
  running_->held.reset();
  const auto left = running_->call.deadline - context_->now();
  call.timeout = std::chrono::duration_cast<std::chrono::microseconds>(std::max<Duration>(left, Duration(0)));
  begin_call(std::move(call));
}

void HostedSandbox::no_pong() {
  const std::string why =
      absl::StrFormat("no answer to a ping within %d ms after %d s idle",
                      std::chrono::duration_cast<milliseconds>(context_->now() - running_->begun).count(),
                      std::chrono::duration_cast<std::chrono::seconds>(running_->held->idle_for).count());
  context_->emit(Severity::warning, "sandbox.no_pong", function_->spec.name,
                 absl::StrCat(to_string(sandbox().id), ": ", why));
  destroy(absl::UnavailableError(why));
}

// The ping is all that was sent: the same call may be made elsewhere.
void HostedSandbox::answer_unbegun(const absl::Status& why) {
  HostReply reply;
  reply.status = absl::UnavailableError(
      absl::StrFormat("call on %s: %s", to_string(sandbox().id), std::string(why.message())));
  reply.never_began = true;
  reply.payload = std::move(running_->held->payload);
  answer(std::move(reply));
}

void HostedSandbox::on_call_end(CallResult result) {
  if (!running_) return;  // answered at its deadline
  running_->ended = context_->now();
  HostReply reply;
  reply.status = std::move(result.status);
  reply.never_began = result.never_began;
  reply.payload = std::move(result.payload);
  const bool refused_by_limit =
      absl::IsInvalidArgument(reply.status) && result.never_began && channel_->is_open();
  if (!reply.status.ok() && !refused_by_limit) {
    if (result.never_began) {
      destroy(reply.status);
      return answer(std::move(reply));
    }
    death_pending_ = reply.status;
    destroy(reply.status);
    if (!exit_.empty()) return answer_death();
    return set(Alarm::cause, after(context_->now(), kCauseWait));
  }
  reply.reply = std::move(result.reply);
  if (machine_.busy()) {
    // All it wrote before its answer is in the pipe by now.
    output_.read();
    const TimePoint now = context_->now();
    if (!refused_by_limit && reply.reply.function_status.ok()) note_run();
    if (!refused_by_limit && (machine_.worn_out() || machine_.aged_out(now))) {
      answer(std::move(reply));  // not clean: its lease ends as retired
      return machine_.worn_out() ? retire_used(absl::StrFormat("it has served %d calls; max_uses is %d",
                                                               machine_.uses(), *machine_.rules().max_uses))
                                 : retire_used(describe_age());
    }
    reply.clean = true;
    // Offered before it is answered: a caller that calls again at once must find it idle.
    offer(machine_.ended_clean(now, !refused_by_limit));
    running_->phases.set(Phase::settle, context_->now() - running_->ended);
    answer(std::move(reply));
    if (machine_.idle()) rest(now);
  } else {
    answer(std::move(reply));  // it answered, and died
  }
}

void HostedSandbox::note_run() {
  const std::optional<LazyInit::Finding> lazy =
      function_->lazy_init.note(machine_.uses(), running_->ended - running_->begun);
  if (!lazy) return;
  const auto in_ms = [](std::chrono::nanoseconds time) {
    return std::chrono::duration<double, std::milli>(time).count();
  };
  context_->emit(
      Severity::warning, "function.lazy_init", function_->spec.name,
      absl::StrFormat("version %d: a sandbox's first call takes %.1f ms, a later one %.1f ms: "
                      "initialise while the code is loaded, or give the function a warm_up payload",
                      sandbox().version, in_ms(lazy->first), in_ms(lazy->steady)));
}

void HostedSandbox::answer_death() {
  HostReply reply;
  const absl::Status why = *std::exchange(death_pending_, std::nullopt);
  const std::string text = absl::StrFormat("%s died during the call: %s; %s", to_string(sandbox().id),
                                           exit_.empty() ? "it has not been reaped yet" : describe_death(),
                                           std::string(why.message()));
  reply.status = absl::IsUnavailable(why) || absl::IsInternal(why) || absl::IsCancelled(why)
                     ? absl::Status(why.code(), text)
                     : absl::UnavailableError(text);
  answer(std::move(reply));
}

void HostedSandbox::answer(HostReply reply) {
  clear(Alarm::deadline);
  clear(Alarm::cause);
  SandboxOutput::Written written = output_.end();
  reply.log_tail = std::move(written.tail);
  reply.log_bytes = written.bytes;
  reply.lost_log_bytes = written.lost_bytes;
  Running running = *std::move(running_);
  running_.reset();
  if (running.ended == TimePoint{}) running.ended = context_->now();
  uses_.store(machine_.uses(), std::memory_order_relaxed);
  reply.run_time = running.ended - running.begun;
  reply.thawed = running.thawed;
  if (!reply.never_began) reply.use = machine_.uses();
  reply.phases = running.phases;
  reply.phases.set(Phase::run, reply.run_time);
  if (context_->options.measure_memory && seat_ && !reply.never_began) {
    const SeatUsage usage = seat_->peak();
    reply.memory_peak_bytes = usage.memory_peak_bytes;
    reply.memory_source = usage.memory_source;
  }
  complete(running.home, std::move(running.done), std::move(reply));
  finish_if_dead();
}

// Answered while it runs: nobody knows what the sandbox is in the middle of.
void HostedSandbox::cut(absl::Status why) {
  HostReply reply;
  reply.status = why;
  reply.never_began = pinging();
  death_pending_.reset();
  output_.read();
  answer(std::move(reply));
  destroy(std::move(why));
}

void HostedSandbox::cancel(Token token, const LeaseId& lease) {
  if (!running_ || running_->call.token != token || running_->call.lease != lease) return;
  cut(absl::CancelledError(
      absl::StrFormat("call on %s: cancelled by the caller after %d ms", to_string(sandbox().id),
                      std::chrono::duration_cast<milliseconds>(context_->now() - running_->begun).count())));
}

// ---- time

void HostedSandbox::alarm(Alarm alarm) {
  ShardTimers::went_off(alarms_, alarm);
  switch (alarm) {
    case Alarm::deadline:
      if (death_pending_) {
        answer_death();  // its cause has no more time
      } else if (pinging()) {
        no_pong();
      } else if (running_) {
        cut(absl::DeadlineExceededError(absl::StrFormat(
            "call on %s: no answer by its deadline, after %d ms", to_string(sandbox().id),
            std::chrono::duration_cast<milliseconds>(context_->now() - running_->begun).count())));
      } else if (warming_up_ && !machine_.ending()) {
        output_.read();
        warm_up_failed(absl::DeadlineExceededError(
            absl::StrFormat("no answer within %d ms", function_->warm_up[warmed_up_].timeout.count())));
      }
      break;
    case Alarm::cause:
      if (running_) {
        if (!death_pending_) death_pending_ = absl::UnavailableError("its channel did not end");
        answer_death();
      }
      break;
    case Alarm::freeze: {
      const TimePoint now = context_->now();
      if (machine_.wants_freeze(grace(), now)) {
        freeze_now(now);
      } else if (machine_.idle() && !machine_.freezing() && !machine_.frozen()) {
        set(Alarm::freeze, after(machine_.idle_since(), grace()));
      }
      break;
    }
    case Alarm::confirm: confirm_freeze(); break;
    case Alarm::expire: expire(); break;
    case Alarm::age: age_out(); break;
    case Alarm::kill:
      if (!exit_.empty()) {
        remove_seat();
      } else if (unwatched_) {
        (void)seat_->kill();
        on_exit();
      } else if (seat_) {
        context_->emit(Severity::warning, "sandbox.not_reaped", function_->spec.name,
                       absl::StrFormat("%s (pid %d) was killed %d ms ago and has not ended; killed again",
                                       to_string(sandbox().id), pid_, kKillWait.count()));
        (void)seat_->kill();
        set(Alarm::kill, after(context_->now(), kKillWait));
      }
      break;
  }
}

// ---- the end

void HostedSandbox::retire(std::string_view why) {
  // A running call may finish; the queue refuses its offer, and that is the end.
  if (!machine_.busy()) dismiss(absl::CancelledError(std::string(why)));
}

void HostedSandbox::dismiss(absl::Status why) {
  if (!machine_.ending()) dismissed_ = true;
  destroy(std::move(why));
}

void HostedSandbox::destroy(absl::Status why) {
  if (!machine_.end()) return;
  clear_idle_alarms();
  if (!seat_) return;  // born() will see it
  if (channel_) channel_->close(why);
  if (exit_.empty()) {
    if (absl::Status killed = seat_->kill(); !killed.ok()) {
      context_->emit(Severity::error, "sandbox.kill_failed", function_->spec.name, killed.ToString());
    }
    await_end();
  }
  if (pinging()) answer_unbegun(why);
}

void HostedSandbox::clear_idle_alarms() {
  for (Alarm alarm : {Alarm::freeze, Alarm::confirm, Alarm::expire, Alarm::age}) clear(alarm);
  offer_timer_.reset();
}

void HostedSandbox::await_end() {
  set(Alarm::kill, after(context_->now(), unwatched_ ? kUnwatchedWait : kKillWait));
}

void HostedSandbox::kill_given_up() {
  if (seat_) (void)seat_->kill();
}

void HostedSandbox::reap_given_up(std::chrono::steady_clock::time_point deadline) {
  if (!exit_.empty() || !pidfd_.is_open()) return;
  const auto left = std::chrono::ceil<milliseconds>(deadline - std::chrono::steady_clock::now());
  pollfd end{.fd = pidfd_.native_handle(), .events = POLLIN, .revents = 0};
  (void)::poll(&end, 1, static_cast<int>(std::max<std::int64_t>(left.count(), 0)));
  exit_ = context_->parts.factory->reap(pidfd_.native_handle());
}

void HostedSandbox::on_channel_closed(absl::Status why) {
  if (machine_.ending()) return;
  context_->emit(Severity::info, "sandbox.channel_closed", function_->spec.name,
                 absl::StrCat(to_string(sandbox().id), ": ", why.ToString()));
  destroy(std::move(why));
}

void HostedSandbox::watch_exit() {
  if (unwatched_) return await_end();
  pidfd_.async_wait(asio::posix::stream_descriptor::wait_read,
                    [weak = weak_from_this()](const boost::system::error_code& error) {
                      auto self = weak.lock();
                      if (self && !error) self->on_exit();
                    });
}

void HostedSandbox::on_exit() {
  exit_ = context_->parts.factory->reap(unwatched_ ? unwatched_.get() : pidfd_.native_handle());
  if (exit_.empty()) return watch_exit();
  const bool by_itself = machine_.end();
  if (by_itself) {
    context_->emit(Severity::info, "sandbox.died", function_->spec.name,
                   absl::StrCat(to_string(sandbox().id), ": ", describe_death()));
    clear_idle_alarms();
    // Children of a first process that was pid 1 died with it; without that, they are still there.
    (void)seat_->kill();
  }
  clear(Alarm::kill);
  output_.read();
  if (death_pending_) {
    answer_death();
  } else if (pinging()) {
    answer_unbegun(absl::UnavailableError(describe_death()));
  } else if (running_) {
    // Its last words may still be in the socket.
    set(Alarm::cause, after(context_->now(), kCauseWait));
  }
  finish_if_dead();
}

std::string HostedSandbox::describe_death() const {
  if (seat_ && seat_->usage().oom_killed) {
    return absl::StrFormat("%s (out of memory: the limit is %d bytes)", exit_,
                           function_->spec.limits.memory_bytes);
  }
  return exit_;
}

void HostedSandbox::finish_if_dead() {
  if (exit_.empty() || running_ || !seat_) return;
  if (machine_.published().state == HostState::gone) return;
  if (!dismissed_ && (!start_error_.ok() || !was_offered())) {
    // Why a start failed is what its author needs most: how it ended, and its last words.
    const std::string words =
        output_.tail().empty() ? "" : absl::StrCat("; its output ends: ", output_.tail());
    const std::string cause = !start_error_.ok() ? std::string(start_error_.message())
                              : warming_up_      ? absl::StrCat(describe_warm_up(), ": it ended")
                                                 : "it ended before its hello";
    // What the host is short of stays that: it is not the function's doing.
    const absl::StatusCode code =
        absl::IsResourceExhausted(start_error_) ? start_error_.code() : absl::StatusCode::kUnavailable;
    start_error_ = absl::Status(code, absl::StrFormat("%s did not start: %s; %s%s", to_string(sandbox().id),
                                                      cause, describe_death(), words));
  }
  machine_.reaped();
  channel_.reset();
  boost::system::error_code ignored;
  pidfd_.close(ignored);
  unwatched_.reset();
  output_.close();
  remove_begun_ = context_->now();
  remove_seat();
}

void HostedSandbox::remove_seat() {
  auto home = shard_.executor;
  asio::post(context_->executors.blocking, [self = shared_from_this(), seat = std::move(seat_),
                                            home]() mutable {
    absl::Status status = seat->remove();
    asio::post(home, [self = std::move(self), seat = std::move(seat), status = std::move(status)]() mutable {
      HostedSandbox& sandbox = *self;
      sandbox.removed(std::move(seat), status);
    });
  });
}

void HostedSandbox::removed(std::unique_ptr<Seat> seat, const absl::Status& status) {
  const TimePoint now = context_->now();
  if (absl::IsFailedPrecondition(status) && now - remove_begun_ < kRemoveBudget) {
    seat_ = std::move(seat);
    remove_wait_ = std::clamp<Duration>(remove_wait_ * 2, kFirstRemove, kMaxRemove);
    return set(Alarm::kill, after(now, remove_wait_));
  }
  if (!status.ok())
    context_->emit(Severity::error, "seat.not_removed", function_->spec.name, status.ToString());
  // Giving up either may block.
  asio::post(context_->executors.blocking, [seat = std::move(seat), code = std::move(code_)] {});
  for (std::size_t i = 0; i < kAlarms; ++i) clear(static_cast<Alarm>(i));
  context_->parts.factory->released(sandbox().id);
  context_->was_reaped(shared_from_this(), start_error_);
}

SandboxView HostedSandbox::view() const {
  const SandboxMachine::Published published = machine_.published();
  SandboxView view{.id = sandbox().id,
                   .function = function_->spec.name,
                   .version = sandbox().version,
                   .state = published.state,
                   .generation = published.generation,
                   .home_shard = sandbox().home_shard,
                   .pid = -1,
                   .cgroup = {},
                   .uses = uses_.load(std::memory_order_relaxed),
                   .age = context_->now() - claimed_at_};
  if (shown_.load(std::memory_order_acquire)) {
    view.pid = pid_;
    view.cgroup = cgroup_;
  }
  return view;
}

}  // namespace faaskit
