// The idle queue of one process beside its floors: what the same hardware does with a bare mutex and vector,
// a bare post, a bare wake-up.
//
//   bench_queue [--json FILE] [Google Benchmark's own flags]
//
// Both sides of a row run in the same process by turns (random interleaving), at least five times, with a
// second thread alive; a figure is the median of its repetitions, with [least - most]. Every iteration
// checks what it got: a fast wrong answer ends the run.
#include <malloc.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <numeric>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include <benchmark/benchmark.h>
#include <boost/asio/bind_executor.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>

#include "faaskit/memory/idle_queue.h"

namespace faaskit::bench {
namespace {

using SteadyClock = std::chrono::steady_clock;
using Leasing = absl::StatusOr<Lease>;

constexpr std::size_t kFunctions = 10'000;
constexpr std::size_t kPerFunction = 8;
constexpr HostId kHost = 1;

// What a caller touches of the sandbox it got: one cache line.
struct alignas(64) Object {
  std::uint64_t uses = 0;
};

// An announcement is of everything that a host has: once per host, or it is quadratic.
void announce(IdleQueue& queue, asio::io_context& io, std::vector<AnnouncedSandbox> sandboxes) {
  bool ok = false;
  queue.async_announce({.host = sandboxes.front().sandbox.id.host, .sandboxes = sandboxes},
                       [&](const absl::StatusOr<std::vector<HeldSandbox>>& held) { ok = held.ok(); });
  io.restart();
  io.poll();
  if (!ok) std::abort();
}

AnnouncedSandbox idle(std::string function, std::uint64_t number, ShardIndex home = 0) {
  AnnouncedSandbox one;
  one.sandbox = {.id = {.host = kHost, .number = number}, .version = 1, .home_shard = home};
  one.function = std::move(function);
  one.generation = 1;
  return one;
}

FunctionHandle define(IdleQueue& queue, asio::io_context& io, const std::string& name,
                      const FunctionCaps& caps) {
  const FunctionHandle f = queue.resolve(name).value();
  FunctionConfig config;
  config.caps = caps;
  bool ok = false;
  queue.async_define({.function = f, .config = config}, [&](const absl::Status& told) { ok = told.ok(); });
  io.restart();
  io.poll();
  if (!ok) std::abort();
  return f;
}

// -- acquire + release, try path

struct BareFunction {
  std::mutex mutex;
  std::vector<SandboxId> idle;
};

struct TryPath {
  asio::io_context io{1};
  std::unique_ptr<IdleQueue> queue = memory::make_idle_queue(io.get_executor()).value();
  std::vector<FunctionHandle> ours;
  std::vector<std::unique_ptr<BareFunction>> bare;
  std::vector<Object> our_objects{kFunctions * kPerFunction};
  std::vector<Object> bare_objects{kFunctions * kPerFunction};
  std::vector<std::vector<std::uint32_t>> draws;  // per thread: zipf(1) over the functions

  TryPath() {
    std::vector<AnnouncedSandbox> sandboxes;
    for (std::size_t f = 0; f < kFunctions; ++f) {
      const std::string name = "f" + std::to_string(f);
      ours.push_back(define(*queue, io, name, {}));
      bare.push_back(std::make_unique<BareFunction>());
      for (std::size_t i = 0; i < kPerFunction; ++i) {
        const std::uint64_t number = f * kPerFunction + i;
        sandboxes.push_back(idle(name, number));
        bare.back()->idle.push_back({.host = kHost, .number = number});
      }
    }
    announce(*queue, io, std::move(sandboxes));
    std::vector<double> upto(kFunctions);
    double sum = 0;
    for (std::size_t f = 0; f < kFunctions; ++f) upto[f] = sum += 1.0 / static_cast<double>(f + 1);
    for (std::uint64_t thread = 0; thread < 4; ++thread) {
      std::mt19937_64 random(thread + 1);
      std::uniform_real_distribution<double> uniform(0, sum);
      auto& drawn = draws.emplace_back(1 << 16);
      for (auto& f : drawn) {
        f = static_cast<std::uint32_t>(std::lower_bound(upto.begin(), upto.end(), uniform(random)) -
                                       upto.begin());
      }
    }
  }
};

TryPath& try_path() {
  static TryPath path;
  return path;
}

void try_ours(benchmark::State& state) {
  TryPath& path = try_path();
  const auto& draws = path.draws[static_cast<std::size_t>(state.thread_index())];
  const auto invoker = static_cast<InvokerId>(state.thread_index() + 1);
  std::uint64_t sequence = 0;
  std::size_t i = 0;
  for (auto _ : state) {
    const FunctionHandle f = path.ours[draws[i++ & (draws.size() - 1)]];
    std::optional<Lease> lease = path.queue->try_acquire(
        {.function = f, .request = {.invoker = invoker, .sequence = ++sequence}, .attempt = 1, .shard = 0});
    if (!lease) {
      state.SkipWithError("no lease");
      break;
    }
    ++path.our_objects[lease->sandbox().id.number].uses;
    std::move(*lease).release();
  }
}

void try_floor(benchmark::State& state) {
  TryPath& path = try_path();
  const auto& draws = path.draws[static_cast<std::size_t>(state.thread_index())];
  std::size_t i = 0;
  for (auto _ : state) {
    BareFunction& f = *path.bare[draws[i++ & (draws.size() - 1)]];
    SandboxId id;
    {
      std::lock_guard lock(f.mutex);
      if (f.idle.empty()) {
        state.SkipWithError("none idle");
        break;
      }
      id = f.idle.back();
      f.idle.pop_back();
    }
    ++path.bare_objects[id.number].uses;
    std::lock_guard lock(f.mutex);
    f.idle.push_back(id);
  }
}

// -- the same through the async operation, one key

struct BareAsync {
  asio::io_context& io;
  std::mutex mutex;
  std::vector<SandboxId> idle{{.host = kHost, .number = 1}};

  asio::any_io_executor get_executor() const { return io.get_executor(); }
  template <class Token>
  auto async_pop(Token&& token) {
    return initiate<absl::StatusOr<SandboxId>>(this, &BareAsync::do_pop, 0, std::forward<Token>(token));
  }
  void do_pop(int, asio::any_io_executor home, Handler<absl::StatusOr<SandboxId>> done) {
    absl::StatusOr<SandboxId> got;
    {
      std::lock_guard lock(mutex);
      if (!idle.empty()) {
        got = idle.back();
        idle.pop_back();
      }
    }
    complete(home, std::move(done), std::move(got));
  }
  void push(SandboxId id) {
    std::lock_guard lock(mutex);
    idle.push_back(id);
  }
};

struct OneKey {
  asio::io_context io{1};
  std::unique_ptr<IdleQueue> queue = memory::make_idle_queue(io.get_executor()).value();
  FunctionHandle f = define(*queue, io, "one", {});
  std::uint64_t sequence = 0;
  // A host that takes its time: it claims what is requested, and the starts stay in flight.
  std::unique_ptr<Watch> host =
      queue->watch_starts(1, io.get_executor(), [this](const std::vector<StartRequest>& starts) {
        for (const StartRequest& start : starts) {
          queue->async_claim(
              {.function = f, .start = start.id, .sandbox = {.host = kHost, .number = 100 + start.id.number}},
              [](const absl::Status&) {});
        }
      });
  OneKey() { announce(*queue, io, {idle("one", 1)}); }
  AcquireParams call() {
    AcquireParams params;
    params.function = f;
    params.request = {.invoker = 1, .sequence = ++sequence};
    params.deadline = SteadyClock::now() + std::chrono::hours(1);
    return params;
  }
};

void async_ours(benchmark::State& state) {
  OneKey one;
  const TimePoint deadline = SteadyClock::now() + std::chrono::hours(1);
  for (auto _ : state) {
    bool released = false;
    AcquireParams params;
    params.function = one.f;
    params.request = {.invoker = 1, .sequence = ++one.sequence};
    params.deadline = deadline;
    one.queue->async_acquire(std::move(params), [&](Leasing lease) {
      released = lease.ok();
      if (released) std::move(*lease).release();
    });
    one.io.restart();
    one.io.poll();
    if (!released) {
      state.SkipWithError("no lease");
      break;
    }
  }
}

void async_floor(benchmark::State& state) {
  asio::io_context io{1};
  // Without a timer or socket an io_context has no reactor and turns without a system call; no
  // application's is like that.
  asio::steady_timer reactor{io};
  BareAsync bare{.io = io, .mutex = {}};
  for (auto _ : state) {
    bool released = false;
    bare.async_pop([&](absl::StatusOr<SandboxId> id) {
      released = id.ok();
      if (released) bare.push(*id);
    });
    io.restart();
    io.poll();
    if (!released) {
      state.SkipWithError("none idle");
      break;
    }
  }
}

// -- hand-over to a waiter on the same shard: from the release to the handler of the one who waits, in
// chains of eight so that reading the clock does not count.

constexpr int kChain = 8;

void handover_ours(benchmark::State& state) {
  OneKey one;
  std::optional<Lease> held;
  one.queue->async_acquire(one.call(), [&](Leasing lease) { held = *std::move(lease); });
  one.io.restart();
  one.io.poll();
  for (auto _ : state) {
    int handed = 0;
    int stolen = 0;
    for (int i = 0; i < kChain; ++i) {
      one.queue->async_acquire(one.call(), [&](Leasing lease) {
        if (!lease.ok()) return;
        ++handed;
        stolen += lease->start() == StartKind::stolen;
        if (handed < kChain) {
          std::move(*lease).release();
        } else {
          held = *std::move(lease);
        }
      });
    }
    one.io.restart();
    one.io.poll();
    const auto from = SteadyClock::now();
    std::move(*held).release();
    one.io.restart();
    one.io.poll();
    const auto took = SteadyClock::now() - from;
    if (stolen != kChain) {
      state.SkipWithError("not stolen");
      break;
    }
    state.SetIterationTime(std::chrono::duration<double>(took).count() / kChain);
  }
}

// The async operation with one idle, in chains of the same length.
void handover_floor(benchmark::State& state) {
  OneKey one;
  for (auto _ : state) {
    int handed = 0;
    const TimePoint deadline = SteadyClock::now() + std::chrono::hours(1);
    struct Link {
      OneKey* one;
      int* handed;
      TimePoint deadline;
      void next() const {
        AcquireParams params;
        params.function = one->f;
        params.request = {.invoker = 1, .sequence = ++one->sequence};
        params.deadline = deadline;
        one->queue->async_acquire(std::move(params), *this);
      }
      void operator()(Leasing lease) const {
        if (!lease.ok()) return;
        std::move(*lease).release();
        if (++*handed < kChain) next();
      }
    };
    const auto from = SteadyClock::now();
    Link{&one, &handed, deadline}.next();
    one.io.restart();
    one.io.poll();
    const auto took = SteadyClock::now() - from;
    if (handed != kChain) {
      state.SkipWithError("no lease");
      break;
    }
    state.SetIterationTime(std::chrono::duration<double>(took).count() / kChain);
  }
}

// The whole wait: join the line, be handed the sandbox, leave.
void wait_ours(benchmark::State& state) {
  OneKey one;
  std::optional<Lease> held;
  one.queue->async_acquire(one.call(), [&](Leasing lease) { held = *std::move(lease); });
  one.io.restart();
  one.io.poll();
  const TimePoint deadline = SteadyClock::now() + std::chrono::hours(1);
  for (auto _ : state) {
    std::optional<Lease> next;
    AcquireParams params;
    params.function = one.f;
    params.request = {.invoker = 1, .sequence = ++one.sequence};
    params.deadline = deadline;
    one.queue->async_acquire(std::move(params), [&](Leasing lease) {
      if (lease.ok()) next = *std::move(lease);
    });
    std::move(*held).release();
    one.io.restart();
    one.io.poll();
    if (!next || next->start() != StartKind::stolen) {
      state.SkipWithError("not stolen");
      break;
    }
    held = std::move(next);
  }
}

// -- hand-over to a waiter on another shard: two threads, one sandbox, back and forth

constexpr int kHops = 2000;

void pin(int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu % static_cast<int>(std::thread::hardware_concurrency()), &set);
  ::sched_setaffinity(0, sizeof(set), &set);
}

void cross_ours(benchmark::State& state) {
  for (auto _ : state) {
    asio::io_context io[2];
    auto queue = memory::make_idle_queue(io[0].get_executor(), {.clock = nullptr, .shards = 2}).value();
    const FunctionHandle f = define(*queue, io[0], "hop", {});
    announce(*queue, io[0], {idle("hop", 1)});
    struct Player {
      IdleQueue* queue;
      FunctionHandle f;
      asio::io_context* io;
      ShardIndex shard;
      std::atomic<int>* hops;
      std::promise<void>* over;
      std::uint64_t sequence = 0;
      void wait() {
        AcquireParams params;
        params.function = f;
        params.request = {.invoker = shard + 1u, .sequence = ++sequence};
        params.shard = shard;
        params.deadline = SteadyClock::now() + std::chrono::hours(1);
        queue->async_acquire(std::move(params),
                             asio::bind_executor(io->get_executor(), [this](Leasing lease) {
                               if (!lease.ok()) return;
                               if (hops->fetch_add(1) + 1 == kHops) return over->set_value();
                               wait();  // in line before the other one is served
                               std::move(*lease).release();
                             }));
      }
    };
    std::atomic<int> hops{0};
    std::promise<void> over;
    Player players[2] = {{queue.get(), f, &io[0], 0, &hops, &over},
                         {queue.get(), f, &io[1], 1, &hops, &over}};
    auto work0 = asio::make_work_guard(io[0]);
    auto work1 = asio::make_work_guard(io[1]);
    // The first lease is held until both stand in line.
    std::optional<Lease> ball =
        queue->try_acquire({.function = f, .request = {9, 1}, .attempt = 1, .shard = 0});
    players[0].wait();
    players[1].wait();
    io[0].restart();
    io[1].restart();
    std::thread one([&] { pin(0), io[0].run(); });
    std::thread two([&] { pin(1), io[1].run(); });
    const auto from = SteadyClock::now();
    std::move(*ball).release();
    over.get_future().wait();
    const auto took = SteadyClock::now() - from;
    io[0].stop();
    io[1].stop();
    one.join();
    two.join();
    state.SetIterationTime(std::chrono::duration<double>(took).count() / kHops);
  }
}

void cross_floor(benchmark::State& state) {
  for (auto _ : state) {
    const int ping = ::eventfd(0, EFD_CLOEXEC);
    const int pong = ::eventfd(0, EFD_CLOEXEC);
    const auto play = [](int cpu, int mine, int theirs, int rounds) {
      pin(cpu);
      std::uint64_t count = 0;
      for (int i = 0; i < rounds; ++i) {
        if (::read(mine, &count, sizeof(count)) != sizeof(count)) return;
        count = 1;
        if (::write(theirs, &count, sizeof(count)) != sizeof(count)) return;
      }
    };
    std::thread two(play, 1, ping, pong, kHops / 2);
    SteadyClock::duration took{};
    std::thread one([&] {
      pin(0);
      std::uint64_t count = 1;
      const auto from = SteadyClock::now();
      for (int i = 0; i < kHops / 2; ++i) {
        if (::write(ping, &count, sizeof(count)) != sizeof(count)) return;
        if (::read(pong, &count, sizeof(count)) != sizeof(count)) return;
        count = 1;
      }
      took = SteadyClock::now() - from;
    });
    one.join();
    two.join();
    ::close(ping);
    ::close(pong);
    state.SetIterationTime(std::chrono::duration<double>(took).count() / kHops);
  }
}

// -- many functions

struct Many {
  explicit Many(std::size_t count) {
    const std::size_t before = ::mallinfo2().uordblks;
    queue = memory::make_idle_queue(io.get_executor()).value();
    for (std::size_t first = 0; first < count; first += 100) {
      std::vector<AnnouncedSandbox> sandboxes;
      for (std::size_t f = first; f < std::min(count, first + 100); ++f) {
        const std::string name = "f" + std::to_string(f);
        functions.push_back(define(*queue, io, name, {}));
        for (std::uint64_t i = 0; i < 10; ++i) {
          sandboxes.push_back(idle(name, f * 10 + i));
          sandboxes.back().sandbox.id.host = kHost + first / 100;
        }
      }
      announce(*queue, io, std::move(sandboxes));
    }
    const std::size_t handles = functions.capacity() * sizeof(FunctionHandle);
    bytes_per_idle =
        static_cast<double>(::mallinfo2().uordblks - before - handles) / static_cast<double>(count) / 10.0;
    std::mt19937_64 random(1);
    for (std::uint32_t& f : draws) f = static_cast<std::uint32_t>(random() % count);
  }
  asio::io_context io{1};
  std::unique_ptr<IdleQueue> queue;
  std::vector<FunctionHandle> functions;
  std::vector<std::uint32_t> draws = std::vector<std::uint32_t>(1 << 16);
  double bytes_per_idle = 0;
};

void acquire_among(benchmark::State& state, Many& many) {
  std::uint64_t sequence = 0;
  std::size_t i = 0;
  for (auto _ : state) {
    const FunctionHandle f = many.functions[many.draws[i++ & (many.draws.size() - 1)]];
    auto lease = many.queue->try_acquire(
        {.function = f, .request = {.invoker = 1, .sequence = ++sequence}, .attempt = 1, .shard = 0});
    if (!lease) {
      state.SkipWithError("no lease");
      break;
    }
    std::move(*lease).release();
  }
}

// Ten bare functions: all in the first cache, so that what is left is instructions and locks.
void few_floor(benchmark::State& state) {
  std::array<BareFunction, 10> few;
  for (std::uint64_t f = 0; f < few.size(); ++f) few[f].idle.assign(10, {.host = kHost, .number = f});
  std::size_t i = 0;
  for (auto _ : state) {
    BareFunction& f = few[i++ % few.size()];
    SandboxId id;
    {
      std::lock_guard lock(f.mutex);
      id = f.idle.back();
      f.idle.pop_back();
    }
    benchmark::DoNotOptimize(id);
    std::lock_guard lock(f.mutex);
    f.idle.push_back(id);
  }
}

// -- many waiters

struct Waiters {
  double bytes_each = 0;
  double left_bytes_each = 0;
  double ns_each = 0;
};

Waiters queue_and_cancel(std::uint64_t count) {
  asio::io_context io{1};
  auto queue = memory::make_idle_queue(io.get_executor()).value();
  const FunctionHandle f =
      define(*queue, io, "busy", {.max_sandboxes = 1, .max_starts = 1, .max_waiters = 2'000'000});
  std::vector<std::uint64_t> order(count);
  std::iota(order.begin(), order.end(), 1);
  std::shuffle(order.begin(), order.end(), std::mt19937_64(1));
  std::uint64_t ended = 0;
  const TimePoint deadline = SteadyClock::now() + std::chrono::hours(1);
  const std::size_t before = ::mallinfo2().uordblks;
  const auto from = SteadyClock::now();
  for (std::uint64_t i = 1; i <= count; ++i) {
    AcquireParams params;
    params.function = f;
    params.request = {.invoker = 1, .sequence = i};
    params.deadline = deadline + std::chrono::nanoseconds(i);
    queue->async_acquire(std::move(params), [&ended](const Leasing& lease) { ended += !lease.ok(); });
  }
  Waiters result;
  const std::size_t full = ::mallinfo2().uordblks;
  for (const std::uint64_t i : order) {
    queue->async_cancel({.function = f, .request = {.invoker = 1, .sequence = i}, .attempt = 1},
                        [](const absl::Status&) {});
    if (i % 64 == 0) {
      io.restart();
      io.poll();
    }
  }
  io.restart();
  io.poll();
  result.ns_each =
      std::chrono::duration<double, std::nano>(SteadyClock::now() - from).count() / double(count);
  if (ended != count) std::abort();
  const std::size_t after = ::mallinfo2().uordblks;
  result.bytes_each = double(full - before) / double(count);
  result.left_bytes_each = after > before ? double(after - before) / double(count) : 0;
  return result;
}

// -- the table

struct Row {
  const char* title;
  const char* ours;
  const char* floor;
  double bar;           // of the ratio; 0: none is set
  double below_ns = 0;  // bar of our own figure; 0: none
};

constexpr Row kRows[] = {
    {"acquire+release, try, 1 thread, zipf 10k / mutex+vector", "try_ours/1", "try_floor/1", 1.5, 1000},
    {"acquire+release, try, 4 threads, zipf 10k / mutex+vector", "try_ours/4", "try_floor/4", 1.5, 1000},
    {"acquire+release, async, one key / handler+post+mutex+vector", "async_ours", "async_floor", 1.5},
    {"stolen hand-over, same shard / async with one idle", "handover_ours", "handover_floor", 1.5},
    {"stolen hand-over, cross shard / eventfd wake-up", "cross_ours", "cross_floor", 1.3},
    {"whole wait: join, stolen, leave / async with one idle", "wait_ours", "async_ours", 0},
    {"acquire+release, try, 10 functions, in cache / mutex+vector", "among_few", "few_floor", 0},
    {"acquire+release among 100,000 functions / among 10", "among_many", "among_few", 2},
};

// Keeps every repetition of every benchmark, by name.
class Collector final : public benchmark::BenchmarkReporter {
 public:
  bool ReportContext(const Context&) override { return true; }
  void ReportRuns(const std::vector<Run>& runs) override {
    for (const Run& run : runs) {
      if (run.error_occurred) {
        std::fprintf(stderr, "%s: %s\n", run.benchmark_name().c_str(), run.error_message.c_str());
        failed = true;
      } else if (run.run_type == Run::RT_Iteration) {
        // Per operation as its caller sees it: Google Benchmark divides by the threads.
        ns[run.run_name.function_name].push_back(run.GetAdjustedRealTime() *
                                                 static_cast<double>(run.threads));
      }
    }
    std::fputc('.', stderr);
  }
  std::map<std::string, std::vector<double>> ns;
  bool failed = false;
};

struct Summary {
  double median = 0, least = 0, most = 0;
};

Summary summary(std::vector<double> values) {
  if (values.empty()) return {};
  std::sort(values.begin(), values.end());
  return {values[values.size() / 2], values.front(), values.back()};
}

std::string text(const Summary& s) {
  char out[64];
  std::snprintf(out, sizeof(out), "%8.1f [%.1f - %.1f]", s.median, s.least, s.most);
  return out;
}

int run(int argc, char** argv) {
  std::string json;
  std::vector<char*> rest{argv[0]};
  for (int i = 1; i < argc; ++i) {
    if (std::string(argv[i]) == "--json" && i + 1 < argc) {
      json = argv[++i];
    } else {
      rest.push_back(argv[i]);
    }
  }
  std::string interleave = "--benchmark_enable_random_interleaving=true";
  std::string repetitions = "--benchmark_repetitions=7";
  std::string min_time = "--benchmark_min_time=0.1";
  // Ours first, so that what the caller says wins.
  rest.insert(rest.begin() + 1, {interleave.data(), repetitions.data(), min_time.data()});
  int count = static_cast<int>(rest.size());
  benchmark::Initialize(&count, rest.data());
  if (benchmark::ReportUnrecognizedArguments(count, rest.data())) return 2;

  // A process with one thread gets cheaper mutexes from glibc; an application never is one.
  std::promise<void> end;
  std::thread second([over = end.get_future()] { over.wait(); });

  using benchmark::RegisterBenchmark;
  try_path();
  for (const int threads : {1, 4}) {
    RegisterBenchmark(("try_ours/" + std::to_string(threads)).c_str(), try_ours)
        ->Threads(threads)
        ->UseRealTime();
    RegisterBenchmark(("try_floor/" + std::to_string(threads)).c_str(), try_floor)
        ->Threads(threads)
        ->UseRealTime();
  }
  RegisterBenchmark("async_ours", async_ours)->UseRealTime();
  RegisterBenchmark("async_floor", async_floor)->UseRealTime();
  RegisterBenchmark("handover_ours", handover_ours)->UseManualTime()->Iterations(20'000);
  RegisterBenchmark("handover_floor", handover_floor)->UseManualTime()->Iterations(20'000);
  RegisterBenchmark("wait_ours", wait_ours)->UseRealTime();
  RegisterBenchmark("cross_ours", cross_ours)->UseManualTime()->Iterations(3);
  RegisterBenchmark("cross_floor", cross_floor)->UseManualTime()->Iterations(3);
  Many few(10);
  Many many(100'000);
  RegisterBenchmark("among_few", [&](benchmark::State& state) { acquire_among(state, few); })->UseRealTime();
  RegisterBenchmark("few_floor", few_floor)->UseRealTime();
  RegisterBenchmark("among_many", [&](benchmark::State& state) {
    acquire_among(state, many);
  })->UseRealTime();

  Collector collector;
  benchmark::RunSpecifiedBenchmarks(&collector);
  std::fputc('\n', stderr);
  end.set_value();
  second.join();
  if (collector.failed) return 1;

  std::ofstream out;
  if (!json.empty()) out.open(json);
  out << "{\"queue\":[";
  const char* separator = "";
  std::printf("%-60s %28s %28s %7s %6s\n", "ns per operation: median [least - most]", "ours", "baseline",
              "ratio", "bar");
  for (const Row& row : kRows) {
    const Summary ours = summary(collector.ns[row.ours]);
    const Summary floor = summary(collector.ns[row.floor]);
    if (ours.median == 0 || floor.median == 0) continue;  // filtered out
    const double ratio = ours.median / floor.median;
    const bool over = (row.bar > 0 && ratio > row.bar) || (row.below_ns > 0 && ours.median >= row.below_ns);
    char bar[16] = "-";
    if (row.bar > 0) std::snprintf(bar, sizeof(bar), "%.1f", row.bar);
    std::printf("%-60s %28s %28s %6.2fx %6s %s\n", row.title, text(ours).c_str(), text(floor).c_str(), ratio,
                bar,
                row.bar == 0 ? ""
                : over       ? "OVER"
                             : "ok");
    out << separator << "{\"row\":\"" << row.title << "\",\"ours_ns\":" << ours.median
        << ",\"baseline_ns\":" << floor.median << ",\"ratio\":" << ratio << ",\"bar\":" << row.bar << "}";
    separator = ",";
  }
  out << "],\"memory\":{";

  std::printf("\n%-60s %12s %12s\n", "bytes", "ours", "bar");
  const auto bytes = [&](const char* title, double ours, double bar) {
    std::printf("%-60s %12.0f %12.0f %s\n", title, ours, bar, ours <= bar ? "ok" : "OVER");
  };
  bytes("per idle sandbox, 100,000 functions x 10", many.bytes_per_idle, 400);
  const Waiters small = queue_and_cancel(100'000);
  const Waiters large = queue_and_cancel(1'000'000);
  bytes("per waiter, 1,000,000 of them", large.bytes_each, 300);
  bytes("kept per waiter after all were cancelled at random", large.left_bytes_each, 16);
  std::printf("%-60s %9.0f ns, %.2fx that of 100,000\n", "queue + cancel of one of 1,000,000 waiters",
              large.ns_each, large.ns_each / small.ns_each);
  out << "\"idle_bytes\":" << many.bytes_per_idle << ",\"waiter_bytes\":" << large.bytes_each
      << ",\"waiter_ns\":" << large.ns_each << ",\"waiter_ns_100k\":" << small.ns_each << "}}\n";
  return 0;
}

}  // namespace
}  // namespace faaskit::bench

int main(int argc, char** argv) { return faaskit::bench::run(argc, argv); }
