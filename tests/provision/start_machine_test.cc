// If these failed, a cold function could starve the others, or a host could exceed its cap.
#include "faaskit/provision/start_machine.h"

#include <algorithm>
#include <deque>
#include <map>
#include <random>
#include <vector>

#include "catch.hpp"

namespace faaskit {
namespace {

using Kind = StartMachine::Next::Kind;
using TimePoint = StartMachine::TimePoint;
using std::chrono::milliseconds;

constexpr TimePoint kStart{std::chrono::hours(1)};

StartRequest start(std::string function, std::uint64_t number) {
  return {.id = {.nonce = 1, .number = number}, .function = std::move(function), .version = 1};
}

StartId id(std::uint64_t number) { return {.nonce = 1, .number = number}; }

}  // namespace

TEST_CASE("a start that arrives twice is made once", "[provision]") {
  StartMachine machine({});
  CHECK(machine.arrived(start("f", 1)));
  CHECK_FALSE(machine.arrived(start("f", 1)));  // queued
  CHECK(machine.queued() == 1);
  CHECK(machine.next().kind == Kind::begin);
  CHECK_FALSE(machine.arrived(start("f", 1)));  // being made
  CHECK(machine.next().kind == Kind::nothing);
  CHECK(machine.counted() == 1);
}

TEST_CASE("what is queued for a function that was removed is not made", "[provision]") {
  StartMachine machine({.max_concurrent_starts = 1});
  machine.arrived(start("gone", 1));
  machine.arrived(start("gone", 2));
  machine.arrived(start("f", 3));
  machine.forget("gone");
  CHECK(machine.queued() == 1);
  CHECK(machine.next().start.id == id(3));
  machine.ready(id(3));
  CHECK(machine.next().kind == Kind::nothing);
  CHECK(machine.arrived(start("gone", 1)));  // it is back
  CHECK(machine.next().start.id == id(1));
}

TEST_CASE("so many cores, so many starts at once", "[provision]") {
  CHECK(starts_at_once(0) == 2);  // nobody knows how many there are
  CHECK(starts_at_once(1) == 2);
  CHECK(starts_at_once(4) == 8);
  CHECK(starts_at_once(256) == 64);
  CHECK(StartLimits{}.max_concurrent_starts >= 2);
}

TEST_CASE("functions take turns", "[provision]") {
  StartMachine machine({.max_concurrent_starts = 8});
  for (std::uint64_t i = 1; i <= 4; ++i) machine.arrived(start("cold", i));
  machine.arrived(start("other", 5));
  machine.arrived(start("third", 6));
  std::vector<std::uint64_t> order;
  for (StartMachine::Next next = machine.next(); next.kind == Kind::begin; next = machine.next()) {
    order.push_back(next.start.id.number);
  }
  CHECK(order == std::vector<std::uint64_t>{1, 5, 6, 2, 3, 4});
}

TEST_CASE("no more are made at once than allowed, ready or refused ones make room", "[provision]") {
  StartMachine machine({.max_sandboxes = 10, .max_concurrent_starts = 2});
  for (std::uint64_t i = 1; i <= 5; ++i) machine.arrived(start("f", i));
  CHECK(machine.next().kind == Kind::begin);
  CHECK(machine.next().kind == Kind::begin);
  CHECK(machine.next().kind == Kind::nothing);
  machine.dropped(id(1));
  CHECK(machine.next().start.id == id(3));
  CHECK(machine.next().kind == Kind::nothing);
  machine.ready(id(2));
  CHECK(machine.next().start.id == id(4));
  CHECK(machine.counted() == 3);
  CHECK(machine.starting() == 2);
}

TEST_CASE("at the cap an idle sandbox is evicted for each start that could begin", "[provision]") {
  StartMachine machine({.max_sandboxes = 2, .max_concurrent_starts = 2});
  for (std::uint64_t i = 1; i <= 2; ++i) {
    machine.arrived(start("old", i));
    REQUIRE(machine.next().kind == Kind::begin);
    machine.ready(id(i));
  }
  machine.arrived(start("new", 3));
  StartMachine::Next next = machine.next();
  CHECK(next.kind == Kind::evict);
  CHECK(next.start.function == "new");
  machine.evicting("new");
  CHECK(machine.next().kind == Kind::nothing);  // one start, one eviction
  CHECK(machine.counted() == 2);                // until it is reaped

  machine.reaped(id(1), true, true);
  next = machine.next();
  CHECK(next.kind == Kind::begin);
  CHECK(next.start.id == id(3));
  CHECK(machine.counted() == 2);
}

TEST_CASE("an eviction that failed is tried again, none possible is not asked for again until something ends",
          "[provision]") {
  StartMachine machine({.max_sandboxes = 1, .max_concurrent_starts = 1});
  machine.arrived(start("old", 1));
  REQUIRE(machine.next().kind == Kind::begin);
  machine.ready(id(1));
  machine.arrived(start("new", 2));
  REQUIRE(machine.next().kind == Kind::evict);
  machine.evicting("new");
  machine.eviction_failed("new");
  CHECK(machine.next().kind == Kind::evict);
  machine.nothing_to_evict("new");
  CHECK(machine.next().kind == Kind::nothing);
  SECTION("a sandbox became idle") {
    machine.may_evict();
    CHECK(machine.next().kind == Kind::evict);
  }
  SECTION("a sandbox ended by itself") {
    machine.reaped(id(1), true, false);
    CHECK(machine.next().kind == Kind::begin);
  }
}

TEST_CASE(
    "a start that may evict nothing does not stand before one that may, and the room made is that one's",
    "[provision]") {
  StartMachine machine({.max_sandboxes = 1, .max_concurrent_starts = 4});
  machine.arrived(start("a", 1));
  REQUIRE(machine.next().kind == Kind::begin);
  machine.ready(id(1));
  machine.arrived(start("b", 2));
  machine.arrived(start("a", 3));  // only its own sandbox is idle
  REQUIRE(machine.next().start.function == "b");
  machine.nothing_to_evict("b");
  REQUIRE(machine.next().start.function == "a");
  machine.nothing_to_evict("a");
  CHECK(machine.next().kind == Kind::nothing);
  machine.may_evict();
  REQUIRE(machine.next().start.function == "b");
  machine.evicting("b");
  CHECK(machine.next().start.function == "a");
  machine.nothing_to_evict("a");
  CHECK(machine.next().kind == Kind::nothing);
  // Between the two a third would be first in turn.
  machine.arrived(start("aa", 4));
  machine.nothing_to_evict("aa");
  machine.reaped(id(1), true, true);
  StartMachine::Next next = machine.next();
  CHECK(next.kind == Kind::begin);
  CHECK(next.start.id == id(2));
}

TEST_CASE("one that died before it was ready is not counted any more", "[provision]") {
  StartMachine machine({.max_sandboxes = 1, .max_concurrent_starts = 1});
  machine.arrived(start("f", 1));
  machine.arrived(start("f", 2));
  REQUIRE(machine.next().kind == Kind::begin);
  machine.reaped(id(1), false, false);
  CHECK(machine.counted() == 0);
  CHECK(machine.next().start.id == id(2));
}

TEST_CASE("the queue of starts is bounded", "[provision]") {
  StartMachine machine({.max_queued = 1});
  CHECK(machine.arrived(start("f", 1)));
  CHECK_FALSE(machine.arrived(start("f", 2)));
  REQUIRE(machine.next().kind == Kind::begin);
  CHECK(machine.arrived(start("f", 2)));  // the engine sends it again
}

// ---- claims for room

TEST_CASE("a start that needs room is claimed first, and then makes it", "[provision]") {
  StartMachine machine({.max_sandboxes = 1, .max_concurrent_starts = 4});
  machine.arrived(start("old", 1));
  REQUIRE(machine.next().kind == Kind::begin);
  machine.ready(id(1));
  machine.arrived(start("new", 2));
  StartMachine::Next next = machine.next();
  REQUIRE(next.kind == Kind::evict);
  CHECK_FALSE(next.claimed);
  machine.claiming(next.start);
  CHECK(machine.next().kind == Kind::nothing);
  SECTION("claimed") {
    REQUIRE(machine.claimed(next.start));
    next = machine.next();
    REQUIRE(next.kind == Kind::evict);
    CHECK(next.claimed);
    machine.evicting("new", id(1));
    machine.reaped(id(1), true, true);
    next = machine.next();
    CHECK(next.kind == Kind::begin);
    CHECK(next.claimed);
  }
  SECTION("refused") {
    machine.not_claimed(next.start);
    CHECK(machine.queued() == 0);
    CHECK(machine.next().kind == Kind::nothing);
    CHECK(machine.arrived(start("new", 2)));
  }
  SECTION("there is room before the answer") {
    machine.reaped(id(1), true, false);
    CHECK(machine.next().kind == Kind::nothing);  // not claimed twice
    REQUIRE(machine.claimed(next.start));
    next = machine.next();
    CHECK(next.kind == Kind::begin);
    CHECK(next.claimed);
  }
  SECTION("its function is removed before the answer") {
    machine.forget("new");
    CHECK_FALSE(machine.claimed(next.start));
    CHECK(machine.given_up().empty());
  }
  SECTION("its function is removed after the answer") {
    REQUIRE(machine.claimed(next.start));
    machine.forget("new");
    const std::vector<StartRequest> given_up = machine.given_up();
    REQUIRE(given_up.size() == 1);
    CHECK(given_up[0].id == id(2));
    CHECK(machine.given_up().empty());
    CHECK(machine.queued() == 0);
  }
}

TEST_CASE("what is claimed and finds no room is given up in time, and stands before nobody", "[provision]") {
  StartMachine machine({.max_sandboxes = 1, .max_concurrent_starts = 4, .room_wait = milliseconds(1000)});
  machine.arrived(start("old", 1), kStart);
  REQUIRE(machine.next(kStart).kind == Kind::begin);
  machine.ready(id(1));
  machine.arrived(start("new", 2), kStart);
  const StartMachine::Next next = machine.next(kStart);
  machine.claiming(next.start);
  CHECK(machine.next_event() == TimePoint::max());
  REQUIRE(machine.claimed(next.start, kStart));
  CHECK(machine.next_event() == kStart + milliseconds(1000));
  machine.nothing_to_evict("new");
  CHECK(machine.next(kStart + milliseconds(999)).kind == Kind::nothing);
  CHECK(machine.given_up().empty());
  CHECK(machine.next(kStart + milliseconds(1000)).kind == Kind::nothing);
  REQUIRE(machine.given_up().size() == 1);
  CHECK_FALSE(machine.wants_eviction());  // whoever becomes idle has nobody to tell
  CHECK(machine.queued() == 0);
  CHECK(machine.next_event() == TimePoint::max());
}

TEST_CASE("of a function that was deployed anew only older starts are forgotten", "[provision]") {
  StartMachine machine({});
  StartRequest newer = start("f", 2);
  newer.version = 2;
  machine.arrived(start("f", 1));
  machine.arrived(newer);
  machine.forget("f", 1);
  CHECK(machine.queued() == 1);
  CHECK(machine.next().start.id == id(2));
}

// ---- memory

TEST_CASE("starts fit the memory budget, or wait", "[provision][memory]") {
  StartMachine machine({.max_memory_bytes = 100, .max_concurrent_starts = 8});
  machine.arrived(start("f", 1), {}, 60);
  machine.arrived(start("f", 2), {}, 60);
  machine.arrived(start("f", 3), {}, 0);  // unlimited ones count as nothing
  CHECK_FALSE(machine.arrived(start("f", 4), {}, 101));
  CHECK(machine.next().start.id == id(1));
  CHECK(machine.counted_bytes() == 60);
  StartMachine::Next next = machine.next();
  CHECK(next.kind == Kind::evict);
  CHECK(next.of_memory);
  machine.nothing_to_evict("f");
  CHECK(machine.next().kind == Kind::nothing);
  SECTION("a start that was dropped") { machine.dropped(id(1)); }
  SECTION("a start that failed") { machine.reaped(id(1), false, false); }
  SECTION("a sandbox that ended") {
    machine.ready(id(1));
    machine.reaped(id(1), true, false);
  }
  CHECK(machine.next().start.id == id(2));
  CHECK(machine.next().start.id == id(3));
  CHECK(machine.counted_bytes() == 60);
}

TEST_CASE("several are evicted for one that is large, and no more than it takes", "[provision][memory]") {
  StartMachine machine({.max_memory_bytes = 100, .max_concurrent_starts = 8});
  for (std::uint64_t i = 1; i <= 5; ++i) {
    machine.arrived(start("small", i), {}, 20);
    REQUIRE(machine.next().kind == Kind::begin);
    machine.ready(id(i));
  }
  machine.arrived(start("large", 9), {}, 50);
  for (std::uint64_t i = 1; i <= 3; ++i) {
    const StartMachine::Next next = machine.next();
    REQUIRE(next.kind == Kind::evict);
    CHECK(next.start.id == id(9));
    machine.evicting("large", id(i));
  }
  CHECK(machine.next().kind == Kind::nothing);
  machine.arrived(start("small", 6), {}, 20);
  for (std::uint64_t i = 1; i <= 3; ++i) {
    machine.nothing_to_evict("small");
    CHECK(machine.next().kind == Kind::nothing);  // the room is not the small one's
    machine.reaped(id(i), true, true);
  }
  StartMachine::Next next = machine.next();
  CHECK(next.kind == Kind::begin);
  CHECK(next.start.id == id(9));
  CHECK(machine.counted_bytes() == 90);
}

// A large start would wait for ever if whatever comes free went to small ones, which always fit.
TEST_CASE("a large start gets room although small ones come and go without ever being idle",
          "[provision][memory]") {
  StartMachine machine({.max_memory_bytes = 100, .max_concurrent_starts = 8});
  std::deque<std::uint64_t> live;
  std::uint64_t number = 0;
  const auto small = [&] { machine.arrived(start("small", ++number), kStart, 10); };
  bool served = false;
  const auto pump = [&] {
    while (true) {
      const StartMachine::Next next = machine.next(kStart);
      if (next.kind == Kind::nothing) return;
      if (next.kind == Kind::evict) {
        machine.nothing_to_evict(next.start.function);
        continue;
      }
      machine.ready(next.start.id);
      if (next.start.function == "large") {
        served = true;
      } else {
        live.push_back(next.start.id.number);
      }
    }
  };
  for (int i = 0; i < 15; ++i) small();
  pump();
  REQUIRE(live.size() == 10);
  machine.arrived(start("large", 1'000'000), kStart, 95);
  for (int i = 0; i < 40 && !served; ++i) {
    small();
    machine.reaped(id(live.front()), true, false, kStart);
    live.pop_front();
    pump();
  }
  CHECK(served);
}

TEST_CASE("memory is not kept for ever for a start that is never given enough", "[provision][memory]") {
  StartMachine machine({.max_memory_bytes = 100, .room_wait = milliseconds(1000)});
  for (std::uint64_t i = 1; i <= 2; ++i) {
    machine.arrived(start("old", i), kStart, 50);
    REQUIRE(machine.next(kStart).kind == Kind::begin);
    machine.ready(id(i));
  }
  machine.arrived(start("large", 3), kStart, 90);
  REQUIRE(machine.next(kStart).kind == Kind::evict);
  machine.nothing_to_evict("large");
  machine.reaped(id(1), true, false, kStart);
  machine.arrived(start("small", 4), kStart, 20);
  StartMachine::Next next = machine.next(kStart);
  while (next.kind == Kind::evict) {
    machine.nothing_to_evict(next.start.function);
    next = machine.next(kStart);
  }
  CHECK(next.kind == Kind::nothing);
  CHECK(machine.next_event() == kStart + milliseconds(1000));
  next = machine.next(kStart + milliseconds(1000));
  CHECK(next.kind == Kind::begin);
  CHECK(next.start.id == id(4));
}

TEST_CASE("whatever happens, caps hold, counts return to nothing, and everybody is served",
          "[provision][memory]") {
  const auto seed = static_cast<std::uint32_t>(GENERATE(range(1, 41)));
  INFO("seed " << seed);
  std::mt19937 random(seed);
  const auto upto = [&](std::uint64_t n) {
    return std::uniform_int_distribution<std::uint64_t>(0, n)(random);
  };
  const StartLimits limits{.max_sandboxes = static_cast<std::uint32_t>(2 + upto(6)),
                           .max_memory_bytes = 100,
                           .max_concurrent_starts = static_cast<std::uint32_t>(1 + upto(3)),
                           .room_wait = milliseconds(100)};
  StartMachine machine(limits);
  struct Box {
    StartId id;
    std::string function;
    std::uint64_t bytes = 0;
    bool ready = false;
    bool evicted = false;
    std::string evicted_for;
  };
  std::map<std::string, std::uint64_t> sizes{{"a", 10}, {"b", 25}, {"c", 60}, {"d", 100}, {"e", 0}};
  std::vector<Box> boxes;
  std::vector<StartRequest> claiming;
  TimePoint now = kStart;
  std::uint64_t number = 0, wanted = 0, made = 0, lost = 0;
  const auto check = [&] {
    std::uint64_t bytes = 0;
    for (const Box& box : boxes) bytes += box.bytes;
    REQUIRE(bytes <= limits.max_memory_bytes);
    REQUIRE(boxes.size() <= limits.max_sandboxes);
    REQUIRE(machine.counted_bytes() == bytes);
    REQUIRE(machine.counted() == boxes.size());
  };
  const auto send = [&](const std::string& function) {
    ++wanted;
    REQUIRE(machine.arrived(start(function, ++number), now, sizes[function]));
  };
  const auto pump = [&] {
    while (true) {
      StartMachine::Next next = machine.next(now);
      // As the engine does: what is given back is wanted still, and comes again.
      for (const StartRequest& back : machine.given_up()) {
        --wanted;
        send(back.function);
      }
      if (next.kind == Kind::nothing) return;
      if (next.kind == Kind::begin) {
        boxes.push_back(
            {.id = next.start.id, .function = next.start.function, .bytes = next.bytes, .evicted_for = {}});
        check();
        continue;
      }
      auto victim = std::find_if(boxes.begin(), boxes.end(), [&](const Box& box) {
        return box.ready && !box.evicted && box.function != next.start.function &&
               (!next.of_memory || box.bytes > 0) && box.id.number % 3 != 0;  // those are busy
      });
      if (victim == boxes.end()) {
        machine.nothing_to_evict(next.start.function);
      } else if (!next.claimed) {
        machine.claiming(next.start);
        claiming.push_back(next.start);
      } else {
        victim->evicted = true;
        victim->evicted_for = next.start.function;
        machine.evicting(next.start.function, victim->id, now);
      }
    }
  };
  const auto end = [&](std::size_t which) {
    const Box box = boxes[which];
    boxes.erase(boxes.begin() + static_cast<std::ptrdiff_t>(which));
    if (!box.ready) ++lost;
    machine.reaped(box.id, box.ready, box.evicted, now);
    check();
  };
  const auto step = [&] {
    now += milliseconds(upto(3));
    if (!claiming.empty() && upto(1) == 0) {
      const StartRequest claim = claiming.back();
      claiming.pop_back();
      if (upto(4) == 0) {
        machine.not_claimed(claim);
        --wanted;
      } else {
        REQUIRE(machine.claimed(claim, now));
      }
    }
    if (!boxes.empty()) {
      const std::size_t which = upto(boxes.size() - 1);
      Box& box = boxes[which];
      if (!box.ready && upto(5) > 0) {
        box.ready = true;
        ++made;
        machine.ready(box.id);
        machine.may_evict();
      } else if (box.evicted && upto(4) == 0) {
        box.evicted = false;
        machine.eviction_failed(box.evicted_for, box.id);
      } else if (box.evicted || upto(3) == 0) {
        end(which);
      }
    }
    pump();
  };
  for (int i = 0; i < 2000; ++i) {
    if (machine.queued() < 20 && upto(2) == 0)
      send(std::vector<std::string>{"a", "b", "c", "d", "e"}[upto(4)]);
    step();
  }
  for (int i = 0; i < 20'000 && machine.queued() + machine.starting() > 0; ++i) step();
  INFO("made " << made << ", lost " << lost << ", wanted " << wanted);
  CHECK(machine.queued() == 0);
  CHECK(made + lost == wanted);
  while (!boxes.empty()) end(0);
  CHECK(machine.counted() == 0);
  CHECK(machine.counted_bytes() == 0);
  // And nothing is kept for anybody: the largest fits at once.
  machine.arrived(start("d", ++number), now, 100);
  CHECK(machine.next(now).kind == Kind::begin);
}

}  // namespace faaskit
