// A bounded queue and the one who empties it: whoever pushes never waits, and one job at a time consumes.
//
// The job runs on the executor given, for one batch, and is posted again while there is more. A caller of
// wait() may take the job's place if it has not begun, so that waiting is safe on the executor's only thread.
// Lifetime: a posted job keeps the queue alive.
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
      if (job_ != Job::none) return true;
      job_ = Job::posted;
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
      // In place of the posted job, which will find nothing to do, or more to do.
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
  //   none     nothing to do
  //   posted   somebody will run, and may find that it was done in the meantime
  //   running  somebody consumes
  enum class Job { none, posted, running };

  void post() {
    asio::post(executor_, [self = this->shared_from_this()] { self->run_posted(); });
  }

  void run_posted() FAASKIT_EXCLUDES(mutex_) {
    {
      MutexLock lock(mutex_);
      if (job_ != Job::posted) return;
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
