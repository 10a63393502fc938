#include "faaskit/core/sandbox.h"

namespace faaskit {

std::string_view to_string(Origin origin) {
  switch (origin) {
    case Origin::fresh: return "fresh";
    case Origin::zygote: return "zygote";
    case Origin::snapshot: return "snapshot";
  }
  return "?";
}

std::string_view to_string(SandboxState state) {
  switch (state) {
    case SandboxState::starting: return "starting";
    case SandboxState::idle: return "idle";
    case SandboxState::leased: return "leased";
    case SandboxState::disputed: return "disputed";
    case SandboxState::retiring: return "retiring";
    case SandboxState::gone: return "gone";
  }
  return "?";
}

std::string_view to_string(StartKind kind) {
  switch (kind) {
    case StartKind::warm: return "warm";
    case StartKind::cold: return "cold";
    case StartKind::stolen: return "stolen";
    case StartKind::queued: return "queued";
  }
  return "?";
}

std::string_view to_string(Outcome outcome) {
  switch (outcome) {
    case Outcome::reusable: return "reusable";
    case Outcome::retired: return "retired";
    case Outcome::refused: return "refused";
  }
  return "?";
}

}  // namespace faaskit
