// A bounded queue and the one who empties it: whoever pushes never waits, and one job at a time consumes.
//
// The job runs on the executor given, for one batch, and is posted again while there is more. It begins a
// moment after the first push, or when the queue is half full: waking a thread for every push would cost the
// pusher more than the push. A caller of wait() may take the job's place if it has not begun, so that waiting
// is safe on the executor's only thread. Lifetime: a posted job keeps the queue alive.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <utility>

#include <absl/functional/any_invocable.h>
#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>

#include "support/mutex.h"

namespace faaskit::sinks {

namespace asio = boost::asio;

template <typename Item>
class Drain : public std::enable_shared_from_this<Drain<Item>> {
 public:
  struct Entry {
    Item item{};
    std::size_t bytes = 0;
  };
  using Batch = std::deque<Entry>;
  // Consumes what it is given, one call at a time.
  using Consume = absl::AnyInvocable<void(Batch&)>;

  Drain(asio::any_io_executor executor, std::size_t max_bytes, Consume consume)
      : executor_(std::move(executor)), max_bytes_(max_bytes), consume_(std::move(consume)) {}

  // False, and nothing is taken: full, or closed.
  bool push(Item&& item, std::size_t bytes) FAASKIT_EXCLUDES(mutex_) {
    {
      MutexLock lock(mutex_);
      if (closed_ || bytes > max_bytes_ - queued_bytes_) return false;
      waiting_.push_back({std::move(item), bytes});
      waiting_bytes_ += bytes;
      queued_bytes_ += bytes;
      ++pushed_;
      const bool urgent = waiting_bytes_ > max_bytes_ / 2;
      if (job_ != Job::none && !(urgent && job_ == Job::lingering)) return true;
      job_ = urgent ? Job::posted : Job::lingering;
      if (!urgent) {
        linger();
        return true;
      }
    }
    post();
    return true;
  }

  // Until all that was pushed before is consumed; false: not within that time.
  bool wait(std::chrono::milliseconds within) FAASKIT_NO_THREAD_SAFETY_ANALYSIS {
    const auto deadline = std::chrono::steady_clock::now() + within;
    std::unique_lock lock(mutex_);
    const std::uint64_t all = pushed_;
    while (consumed_ < all) {
      if (job_ == Job::running) {
        if (changed_.wait_until(lock, deadline) == std::cv_status::timeout && consumed_ < all) return false;
        continue;
      }
      if (std::chrono::steady_clock::now() >= deadline) return false;
      // In place of the job to come, which will find nothing to do, or more to do.
      job_ = Job::running;
      lock.unlock();
      run_batch();
      lock.lock();
    }
    return true;
  }

  void close() FAASKIT_EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    closed_ = true;
  }

  std::size_t queued_bytes() const FAASKIT_EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    return queued_bytes_;
  }

 private:
  // One job's worth: others on the executor want their turn, too.
  static constexpr std::size_t kBatchBytes = 256 << 10;
  static constexpr std::chrono::milliseconds kLinger{20};
  //   none       nothing to do
  //   lingering  a timer will run it, and may find that it was done in the meantime
  //   posted     the same, without a timer
  //   running    somebody consumes
  enum class Job { none, lingering, posted, running };

  // The timer belongs to its handler: it goes with whatever the executor belongs to, whichever of us is
  // first.
  void linger() {
    auto timer = std::make_unique<asio::steady_timer>(executor_, kLinger);
    asio::steady_timer& armed = *timer;
    armed.async_wait(
        [self = this->shared_from_this(), timer = std::move(timer)](const boost::system::error_code& error) {
          if (!error) self->run(Job::lingering);
        });
  }

  void post() {
    asio::post(executor_, [self = this->shared_from_this()] { self->run(Job::posted); });
  }

  void run(Job expected) FAASKIT_EXCLUDES(mutex_) {
    {
      MutexLock lock(mutex_);
      if (job_ != expected) return;
      job_ = Job::running;
    }
    run_batch();
  }

  // With job_ running, which is ours.
  void run_batch() FAASKIT_EXCLUDES(mutex_) {
    Batch batch;
    std::size_t bytes = 0;
    {
      MutexLock lock(mutex_);
      if (waiting_bytes_ <= kBatchBytes) {
        batch.swap(waiting_);
        bytes = std::exchange(waiting_bytes_, 0);
      } else {
        do {
          bytes += waiting_.front().bytes;
          waiting_bytes_ -= waiting_.front().bytes;
          batch.push_back(std::move(waiting_.front()));
          waiting_.pop_front();
        } while (!waiting_.empty() && bytes < kBatchBytes);
      }
    }
    const std::size_t count = batch.size();
    consume_(batch);
    batch.clear();
    bool more = false;
    {
      MutexLock lock(mutex_);
      queued_bytes_ -= bytes;
      consumed_ += count;
      more = !waiting_.empty();
      job_ = more ? Job::posted : Job::none;
    }
    changed_.notify_all();
    if (more) post();
  }

  const asio::any_io_executor executor_;
  const std::size_t max_bytes_;
  Consume consume_;  // called by whoever holds Job::running
  mutable Mutex mutex_;
  std::condition_variable_any changed_;
  Batch waiting_ FAASKIT_GUARDED_BY(mutex_);
  std::size_t waiting_bytes_ FAASKIT_GUARDED_BY(mutex_) = 0;
  std::size_t queued_bytes_ FAASKIT_GUARDED_BY(mutex_) = 0;  // and of the batch at work
  std::uint64_t pushed_ FAASKIT_GUARDED_BY(mutex_) = 0;
  std::uint64_t consumed_ FAASKIT_GUARDED_BY(mutex_) = 0;
  bool closed_ FAASKIT_GUARDED_BY(mutex_) = false;
  Job job_ FAASKIT_GUARDED_BY(mutex_) = Job::none;
};

}  // namespace faaskit::sinks
