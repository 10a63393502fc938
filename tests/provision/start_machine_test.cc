// If these failed, a cold function could starve the others, or a host could exceed its cap.
#include "faaskit/provision/start_machine.h"

#include <vector>

#include "catch.hpp"

namespace faaskit {
namespace {

using Kind = StartMachine::Next::Kind;

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

TEST_CASE("functions take turns", "[provision]") {
  StartMachine machine({});
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

}  // namespace faaskit
