// Private: std::mutex with the annotations that clang's -Wthread-safety reads. Not absl::Mutex: where
// Abseil was built without -fsanitize=thread, its mutex makes TSan report races that are none.
#pragma once

#include <mutex>
#include <utility>

#if defined(__clang__)
#define FAASKIT_TSA(x) __attribute__((x))
#else
#define FAASKIT_TSA(x)
#endif
#define FAASKIT_GUARDED_BY(x) FAASKIT_TSA(guarded_by(x))
#define FAASKIT_REQUIRES(...) FAASKIT_TSA(requires_capability(__VA_ARGS__))
#define FAASKIT_EXCLUDES(...) FAASKIT_TSA(locks_excluded(__VA_ARGS__))
#define FAASKIT_NO_THREAD_SAFETY_ANALYSIS FAASKIT_TSA(no_thread_safety_analysis)

namespace faaskit {

class FAASKIT_TSA(capability("mutex")) Mutex {
 public:
  void lock() FAASKIT_TSA(acquire_capability()) { mutex_.lock(); }
  void unlock() FAASKIT_TSA(release_capability()) { mutex_.unlock(); }

 private:
  std::mutex mutex_;
};

class FAASKIT_TSA(scoped_lockable) MutexLock {
 public:
  explicit MutexLock(Mutex& mutex) FAASKIT_TSA(acquire_capability(mutex)) : mutex_(&mutex) { mutex_->lock(); }
  ~MutexLock() FAASKIT_TSA(release_capability()) {
    if (mutex_ != nullptr) mutex_->unlock();
  }
  // Before the end of its scope; once.
  void unlock() FAASKIT_TSA(release_capability()) { std::exchange(mutex_, nullptr)->unlock(); }
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;

 private:
  Mutex* mutex_;
};

}  // namespace faaskit
