#include "provision/seat_pool.h"

#include <utility>

#include <absl/strings/str_format.h>
#include <boost/asio/post.hpp>

namespace faaskit {

absl::StatusOr<std::unique_ptr<Seat>> SeatPool::make() {
  SeatSpec spec;
  spec.name = absl::StrFormat("s-%x-%d", host_, next_name_.fetch_add(1, std::memory_order_relaxed) + 1);
  return freezer_->prepare(spec);
}

void SeatPool::refill() {
  {
    MutexLock lock(mutex_);
    if (disposed_ || parked_.size() + making_ >= target_) return;
    ++making_;
  }
  asio::post(blocking_, [self = shared_from_this()] {
    absl::StatusOr<std::unique_ptr<Seat>> seat = self->make();
    absl::Status parked = seat.ok() ? self->factory_->park(**seat) : seat.status();
    std::unique_ptr<Seat> spare = seat.ok() ? *std::move(seat) : nullptr;
    bool keep = false;
    {
      MutexLock lock(self->mutex_);
      keep = parked.ok() && !self->disposed_;
      if (keep) self->parked_.push_back(std::move(spare));
    }
    if (keep) {
      self->made();
      return self->refill();
    }
    // A start that finds nothing parked makes its own; and says then, to a caller, what is wrong.
    if (!parked.ok() && self->events_) {
      self->events_->emit({.severity = Severity::warning,
                           .name = "seat.not_parked",
                           .function = {},
                           .detail = parked.ToString()});
    }
    if (spare) discard(std::move(spare));
    self->made();
  });
}

void SeatPool::made() {
  absl::AnyInvocable<void()> done;
  {
    MutexLock lock(mutex_);
    if (--making_ == 0) done = std::exchange(on_disposed_, nullptr);
  }
  if (done) done();
}

absl::StatusOr<std::unique_ptr<Seat>> SeatPool::take(const ResourceLimits& limits) {
  std::unique_ptr<Seat> seat;
  {
    MutexLock lock(mutex_);
    if (disposed_) return absl::CancelledError("this host is stopping");
    if (!parked_.empty()) {
      seat = std::move(parked_.back());
      parked_.pop_back();
    }
  }
  refill();
  if (!seat) {
    absl::StatusOr<std::unique_ptr<Seat>> made = make();
    if (!made.ok()) return made.status();
    seat = *std::move(made);
  }
  if (absl::Status set = seat->set_limits(limits); !set.ok()) {
    discard(std::move(seat));
    return set;
  }
  return seat;
}

void SeatPool::dispose(absl::AnyInvocable<void()> done) {
  std::vector<std::unique_ptr<Seat>> parked;
  {
    MutexLock lock(mutex_);
    disposed_ = true;
    parked.swap(parked_);
    on_disposed_ = std::move(done);
    ++making_;  // so that it is not done before these are gone
  }
  for (std::unique_ptr<Seat>& seat : parked) discard(std::move(seat));
  made();
}

void SeatPool::discard(std::unique_ptr<Seat> seat) {
  // What a seat still holds when it is given up, its freezer removes; killing it here saves that wait.
  (void)seat->kill();
  (void)seat->remove();
}

}  // namespace faaskit
