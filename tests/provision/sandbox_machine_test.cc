// If these failed, two calls could meet in one sandbox, or a stranger's leftovers could be served.
#include "faaskit/provision/sandbox_machine.h"

#include "catch.hpp"

namespace faaskit {
namespace {

using TimePoint = SandboxMachine::TimePoint;
using std::chrono::milliseconds;

constexpr TimePoint kStart{std::chrono::hours(1)};
constexpr milliseconds kGrace{15};
const Sandbox kSandbox{.id = {.host = 1, .number = 7}, .version = 3, .home_shard = 2};
constexpr StartId kStartId{.nonce = 99, .number = 4};

LeaseId lease(std::uint64_t sequence, std::uint32_t attempt = 1) {
  return {.request = {.invoker = 5, .sequence = sequence}, .attempt = attempt};
}

// A SandboxMachine holds an atomic and stays where it is.
struct Ready : SandboxMachine {
  Ready() : SandboxMachine(kSandbox, kStartId) { offer_acknowledged(ready(kStart).generation); }
};

}  // namespace

TEST_CASE("a fresh sandbox is offered under its start id", "[provision]") {
  SandboxMachine machine(kSandbox, kStartId);
  CHECK(machine.starting());
  CHECK(machine.announced("f").state == SandboxState::starting);
  CHECK(machine.announced("f").start == kStartId);
  CHECK(machine.published().state == HostState::starting);

  const Offer offer = machine.ready(kStart);
  CHECK(offer.fresh());
  CHECK(offer.start == kStartId);
  CHECK(offer.sandbox.id == kSandbox.id);
  CHECK(offer.generation == 1);
  CHECK(machine.idle());
  CHECK(machine.announced("f").offer_pending);
  machine.offer_acknowledged(offer.generation);
  CHECK_FALSE(machine.announced("f").offer_pending);
}

TEST_CASE("nothing is admitted before it is ready", "[provision]") {
  SandboxMachine machine(kSandbox, kStartId);
  CHECK(absl::IsAborted(machine.admit(1, lease(1), kStart).status));
  CHECK(machine.starting());
}

TEST_CASE("only a token greater than any seen is admitted", "[provision]") {
  Ready machine;
  REQUIRE(machine.admit(5, lease(1), kStart).status.ok());
  machine.ended_clean(kStart);

  CHECK(absl::IsAborted(machine.admit(4, lease(2), kStart).status));
  const SandboxMachine::Admission equal = machine.admit(5, lease(2), kStart);
  CHECK(absl::IsAborted(equal.status));
  CHECK_THAT(std::string(equal.status.message()), ContainsSubstring("token 5, but 5 was seen"));
  CHECK(machine.idle());
  CHECK(machine.admit(6, lease(2), kStart).status.ok());
}

TEST_CASE("a lease is refused while a call runs, and its token counts as seen", "[provision]") {
  Ready machine;
  REQUIRE(machine.admit(1, lease(1), kStart).status.ok());
  CHECK(absl::IsAborted(machine.admit(3, lease(2), kStart).status));
  CHECK(machine.lease() == lease(1));
  CHECK(machine.highest_token() == 3);

  const Offer offer = machine.ended_clean(kStart);
  CHECK(offer.token == 1);  // the lease that ended
  CHECK(offer.lease == lease(1));
  CHECK(offer.highest_token == 3);
  CHECK(absl::IsAborted(machine.admit(2, lease(3), kStart).status));
}

TEST_CASE("dirty from the beginning of a call until its clean end", "[provision]") {
  Ready machine;
  CHECK_FALSE(machine.dirty());
  REQUIRE(machine.admit(1, lease(1), kStart).status.ok());
  CHECK(machine.dirty());
  const Offer offer = machine.ended_clean(kStart + milliseconds(3));
  CHECK_FALSE(machine.dirty());
  CHECK(machine.idle());
  CHECK_FALSE(offer.fresh());
  CHECK(offer.generation == 2);
  CHECK(machine.idle_since() == kStart + milliseconds(3));
  CHECK(machine.uses() == 1);
}

TEST_CASE("one that ends admits nothing, whatever it was doing", "[provision]") {
  Ready machine;
  if (GENERATE(false, true)) REQUIRE(machine.admit(1, lease(1), kStart).status.ok());
  CHECK(machine.end());
  CHECK_FALSE(machine.end());  // the second to notice does nothing
  CHECK(machine.dirty());
  CHECK(machine.ending());
  CHECK(absl::IsAborted(machine.admit(9, lease(2), kStart).status));
  CHECK_FALSE(machine.wants_freeze(kGrace, kStart + kGrace));
  CHECK(machine.announced("f").state == SandboxState::retiring);
  CHECK(machine.published().state == HostState::ending);
  machine.reaped();
  CHECK(machine.published().state == HostState::gone);
  CHECK(absl::IsAborted(machine.admit(10, lease(3), kStart).status));
}

TEST_CASE("idle for the grace time it freezes, and a call thaws", "[provision]") {
  Ready machine;
  CHECK_FALSE(machine.wants_freeze(kGrace, kStart + kGrace - milliseconds(1)));
  CHECK(machine.wants_freeze(kGrace, kStart + kGrace));
  machine.freeze_written();
  CHECK(machine.freezing());
  CHECK(machine.published().state == HostState::freezing);
  CHECK_FALSE(machine.wants_freeze(kGrace, kStart + kGrace));
  const bool confirmed = GENERATE(false, true);
  if (confirmed) machine.freeze_confirmed();
  CHECK(machine.frozen() == confirmed);

  const SandboxMachine::Admission admission = machine.admit(1, lease(1), kStart + milliseconds(40));
  REQUIRE(admission.status.ok());
  CHECK(admission.thaw);
  CHECK(admission.idle_for == milliseconds(40));
  CHECK_FALSE(machine.frozen());
  CHECK_FALSE(machine.freezing());
  machine.publish_busy();
  CHECK(machine.published().state == HostState::busy);
  machine.freeze_confirmed();  // of the freeze that the call overtook
  CHECK_FALSE(machine.frozen());
  CHECK(machine.published().state == HostState::busy);
}

TEST_CASE("a refused call does not thaw", "[provision]") {
  Ready machine;
  REQUIRE(machine.admit(4, lease(1), kStart).status.ok());
  machine.ended_clean(kStart);
  machine.freeze_written();
  machine.freeze_confirmed();
  const SandboxMachine::Admission admission = machine.admit(4, lease(2), kStart);
  CHECK(absl::IsAborted(admission.status));
  CHECK_FALSE(admission.thaw);
  CHECK(machine.frozen());
}

TEST_CASE("a warm call needs no thaw", "[provision]") {
  Ready machine;
  const SandboxMachine::Admission admission = machine.admit(1, lease(1), kStart);
  CHECK(admission.status.ok());
  CHECK_FALSE(admission.thaw);
}

TEST_CASE("a lease that the engine still holds is returned once its call has ended", "[provision]") {
  Ready machine;
  REQUIRE(machine.admit(1, lease(1), kStart).status.ok());
  CHECK_FALSE(machine.answer_lease(1, lease(1), true).has_value());  // it runs: it reports its own end
  machine.offer_acknowledged(machine.ended_clean(kStart).generation);

  const std::optional<Offer> offer = machine.answer_lease(1, lease(1), false);
  REQUIRE(offer.has_value());
  CHECK(offer->token == 1);
  CHECK(offer->lease == lease(1));
  CHECK(offer->generation == 3);  // the engine may have seen generation 2
  CHECK(machine.announced("f").offer_pending);
}

TEST_CASE("a lease that has not come yet is left alone, or fenced off if its invoker is gone",
          "[provision]") {
  Ready machine;
  CHECK_FALSE(machine.answer_lease(6, lease(2), false).has_value());
  const std::optional<Offer> offer = machine.answer_lease(6, lease(2), true);
  REQUIRE(offer.has_value());
  CHECK(offer->token == 6);
  CHECK(offer->highest_token == 6);
  CHECK(absl::IsAborted(machine.admit(6, lease(2), kStart).status));  // the invoker was only paused
  CHECK(machine.admit(7, lease(3), kStart).status.ok());
}

TEST_CASE("a lease is proof that the engine knows the sandbox", "[provision]") {
  SandboxMachine machine(kSandbox, kStartId);
  machine.ready(kStart);
  REQUIRE(machine.admit(1, lease(1), kStart).status.ok());
  const AnnouncedSandbox said = machine.announced("f");
  CHECK(said.state == SandboxState::leased);
  CHECK_FALSE(said.offer_pending);
  CHECK(said.token == 1);
  CHECK(said.lease == lease(1));
}

TEST_CASE("a late acknowledgement of an earlier offer acknowledges nothing", "[provision]") {
  SandboxMachine machine(kSandbox, kStartId);
  const Offer first = machine.ready(kStart);
  REQUIRE(machine.admit(1, lease(1), kStart).status.ok());
  machine.ended_clean(kStart);
  machine.offer_acknowledged(first.generation);
  CHECK(machine.announced("f").offer_pending);
}

TEST_CASE("every change of state is published with a new generation", "[provision]") {
  Ready machine;
  std::uint64_t last = machine.published().generation;
  const auto changed = [&](HostState state) {
    const SandboxMachine::Published now = machine.published();
    const bool newer = now.generation > last;
    last = now.generation;
    return newer && now.state == state;
  };
  machine.freeze_written();
  CHECK(changed(HostState::freezing));
  machine.freeze_confirmed();
  CHECK(changed(HostState::frozen));
  REQUIRE(machine.admit(1, lease(1), kStart).status.ok());
  // Taken back before the thaw: nothing marked frozen may run.
  CHECK(changed(HostState::idle));
  machine.publish_busy();
  CHECK(changed(HostState::busy));
  machine.ended_clean(kStart);
  CHECK(changed(HostState::idle));
}

TEST_CASE("it has served enough once it has reached its uses or its age", "[provision]") {
  SandboxMachine machine(kSandbox, kStartId, {.max_uses = 2, .ends_at = kStart + milliseconds(100)});
  machine.ready(kStart);
  CHECK_FALSE(machine.worn_out());
  REQUIRE(machine.admit(1, lease(1), kStart).status.ok());
  CHECK_FALSE(machine.worn_out());
  machine.ended_clean(kStart, false);  // it never reached the sandbox: no use of it
  REQUIRE(machine.admit(2, lease(2), kStart).status.ok());
  machine.ended_clean(kStart);
  CHECK_FALSE(machine.worn_out());
  REQUIRE(machine.admit(3, lease(3), kStart).status.ok());
  CHECK(machine.worn_out());
  CHECK_FALSE(machine.aged_out(kStart + milliseconds(99)));
  CHECK(machine.aged_out(kStart + milliseconds(100)));
  Ready eternal;
  CHECK_FALSE(eternal.aged_out(kStart + std::chrono::hours(1 << 20)));
}

TEST_CASE("a call after a longer idle spell than that is preceded by a ping", "[provision]") {
  SandboxMachine machine(kSandbox, kStartId, {.ping_after = milliseconds(100)});
  machine.ready(kStart);
  CHECK_FALSE(machine.admit(1, lease(1), kStart + milliseconds(100)).ping);
  machine.ended_clean(kStart + milliseconds(200));
  CHECK(machine.admit(2, lease(2), kStart + milliseconds(301)).ping);
  Ready never;
  CHECK_FALSE(never.admit(1, lease(1), kStart + std::chrono::hours(1 << 20)).ping);
}

}  // namespace faaskit
