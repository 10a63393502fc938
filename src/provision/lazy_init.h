// Private: does a function initialise itself in its first call? Then every new sandbox makes a caller wait
// for what could have been done before it was offered.
//
// Means over all sandboxes of a function version. Thread safety: every member from any thread; no lock.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <optional>

namespace faaskit {

class LazyInit {
 public:
  static constexpr std::int64_t kFirstCalls = 3;
  static constexpr std::int64_t kSteadyCalls = 20;
  // More of them change nothing, and the counters are shared by all shards.
  static constexpr std::int64_t kEnoughCalls = 1000;
  static constexpr double kRatio = 5;
  // Cold caches alone make a function of microseconds take many times as long at first.
  static constexpr std::chrono::milliseconds kFloor{5};

  struct Finding {
    std::chrono::nanoseconds first{};
    std::chrono::nanoseconds steady{};
  };

  // A call that ended well, the sandbox's `use`-th, and how long it ran. What it shows: once.
  std::optional<Finding> note(std::uint64_t use, std::chrono::nanoseconds run) {
    if (told_.load(std::memory_order_relaxed)) return std::nullopt;
    Mean& mean = use == 1 ? first_ : steady_;
    if (mean.count.load(std::memory_order_relaxed) >= kEnoughCalls) return std::nullopt;
    mean.sum.fetch_add(run.count(), std::memory_order_relaxed);
    mean.count.fetch_add(1, std::memory_order_relaxed);
    const std::int64_t first_calls = first_.count.load(std::memory_order_relaxed);
    const std::int64_t steady_calls = steady_.count.load(std::memory_order_relaxed);
    if (first_calls < kFirstCalls || steady_calls < kSteadyCalls) return std::nullopt;
    const Finding finding{
        .first = std::chrono::nanoseconds(first_.sum.load(std::memory_order_relaxed) / first_calls),
        .steady = std::chrono::nanoseconds(steady_.sum.load(std::memory_order_relaxed) / steady_calls)};
    if (finding.first - finding.steady <= kFloor ||
        static_cast<double>(finding.first.count()) <= kRatio * static_cast<double>(finding.steady.count()))
      return std::nullopt;
    if (told_.exchange(true)) return std::nullopt;
    return finding;
  }

 private:
  struct alignas(64) Mean {
    std::atomic<std::int64_t> sum{0};
    std::atomic<std::int64_t> count{0};
  };
  Mean first_;
  Mean steady_;
  std::atomic<bool> told_{false};
};

}  // namespace faaskit
