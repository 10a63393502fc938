// A HostedSandbox between its calls: it freezes, its keep-alive passes, it grows too old.
#include <algorithm>
#include <utility>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>
#include <boost/asio/bind_executor.hpp>

#include "provision/hosted_sandbox.h"
#include "support/time.h"

namespace faaskit {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kFirstFreezeRepeat{50};
constexpr milliseconds kMaxFreezeRepeat{5000};
constexpr milliseconds kFirstConfirm{1};
constexpr milliseconds kMaxConfirm{100};
// Until a withdrawal that did not come about is tried again.
constexpr milliseconds kExpireRepeat{1000};

}  // namespace

void HostedSandbox::rest(TimePoint now) {
  idle_since_.store(now.time_since_epoch().count(), std::memory_order_relaxed);
  switch (context_->options.freeze) {
    case FreezePolicy::at_once: freeze_now(now); break;
    case FreezePolicy::after_grace:
      // One alarm serves many short calls: it looks again at how long it has been idle.
      if (!ShardTimers::is_set(alarms_, Alarm::freeze)) set(Alarm::freeze, after(now, grace()));
      break;
    case FreezePolicy::never: break;
  }
  if (!ShardTimers::is_set(alarms_, Alarm::expire)) set(Alarm::expire, after(now, function_->keep_alive));
  if (!ShardTimers::is_set(alarms_, Alarm::age)) set(Alarm::age, machine_.rules().ends_at);
  if (context_->eviction_wanted.load(std::memory_order_relaxed)) context_->became_idle(*this);
}

milliseconds HostedSandbox::grace() const {
  return context_->options.freeze == FreezePolicy::at_once ? milliseconds(0) : context_->options.grace;
}

void HostedSandbox::freeze_now(TimePoint now) {
  if (absl::Status asked = seat_->freeze(); !asked.ok()) {
    context_->emit(Severity::warning, "freezer.failed", function_->spec.name, asked.ToString());
    freeze_wait_ = std::clamp<Duration>(freeze_wait_ * 2, kFirstFreezeRepeat, kMaxFreezeRepeat);
    return set(Alarm::freeze, after(now, freeze_wait_));
  }
  freeze_wait_ = {};
  freeze_time_ = Phases::kAbsent;
  machine_.freeze_written();
  freeze_asked_ = now;
  confirm_wait_ = kFirstConfirm;
  set(Alarm::confirm, after(now, confirm_wait_));
}

// The kernel is asked again and again, further and further apart: its notifications come 10 ms late.
void HostedSandbox::confirm_freeze() {
  if (!machine_.freezing()) return;
  // What could not be read is not confirmed, and is asked again.
  const bool frozen = seat_->frozen().value_or(false);
  const TimePoint now = context_->now();
  if (frozen) {
    freeze_time_ = now - freeze_asked_;
    return machine_.freeze_confirmed();
  }
  if (now - freeze_asked_ > std::chrono::seconds(2) && confirm_wait_ < kMaxConfirm * 2) {
    context_->emit(
        Severity::warning, "freezer.unconfirmed", function_->spec.name,
        absl::StrFormat("freeze %s: the kernel has not confirmed it after 2 s", to_string(sandbox().id)));
    confirm_wait_ = kMaxConfirm * 10;
  } else if (confirm_wait_ < kMaxConfirm) {
    confirm_wait_ = std::min<Duration>(confirm_wait_ * 2, kMaxConfirm);
  }
  set(Alarm::confirm, after(now, confirm_wait_));
}

void HostedSandbox::expire() {
  const TimePoint now = context_->now();
  if (const TimePoint due = after(machine_.idle() ? machine_.idle_since() : now, function_->keep_alive);
      due > now) {
    if (!machine_.ending()) set(Alarm::expire, due);
    return;
  }
  WithdrawParams params{
      .function = function_->handle, .sandbox = sandbox().id, .reason = WithdrawReason::keep_alive};
  context_->parts.idle->async_withdraw(
      params, asio::bind_executor(shard_.executor, [weak = weak_from_this(), now](absl::Status status) {
        auto self = weak.lock();
        if (!self || self->machine_.ending()) return;
        if (status.ok()) return self->destroy(absl::CancelledError("its keep-alive has passed"));
        // Not withdrawn: leased meanwhile; or nobody knows, and it is asked again.
        self->set(Alarm::expire, absl::IsUnavailable(status) ? after(now, kExpireRepeat)
                                                             : after(now, self->function_->keep_alive));
      }));
}

// Healthy, and it has served enough.
void HostedSandbox::retire_used(const std::string& why) {
  context_->emit(Severity::info, "sandbox.retired", function_->spec.name,
                 absl::StrCat(to_string(sandbox().id), ": ", why));
  destroy(absl::CancelledError(why));
}

std::string HostedSandbox::describe_age() const {
  return absl::StrFormat("it is %d ms old; max_age is %d ms, less up to a tenth at random",
                         std::chrono::duration_cast<milliseconds>(context_->now() - claimed_at_).count(),
                         function_->lifetime.max_age->count());
}

void HostedSandbox::age_out() {
  if (!machine_.idle()) return;  // a call's end sees to it
  WithdrawParams params{
      .function = function_->handle, .sandbox = sandbox().id, .reason = WithdrawReason::host};
  context_->parts.idle->async_withdraw(
      params, asio::bind_executor(shard_.executor, [weak = weak_from_this()](absl::Status status) {
        auto self = weak.lock();
        if (!self || self->machine_.ending()) return;
        if (status.ok()) return self->retire_used(self->describe_age());
        // Leased, and its call may never come; or nobody knows.
        self->set(Alarm::age, after(self->context_->now(), kExpireRepeat));
      }));
}

}  // namespace faaskit
