// One name for Catch2 v2 (Debian 12) and v3 (elsewhere). Include only this in tests.
#pragma once

#if __has_include(<catch2/catch_all.hpp>)
#define FAASKIT_CATCH3
#include <catch2/catch_all.hpp>
using Catch::Approx;
using Catch::Matchers::ContainsSubstring;
#else
#define CATCH_CONFIG_EXTERNAL_INTERFACES
#include <catch2/catch.hpp>
namespace Catch::Matchers {
inline auto ContainsSubstring(const std::string& text) { return Contains(text); }
}  // namespace Catch::Matchers
using Catch::Matchers::ContainsSubstring;
#endif

#include <cstdio>
#include <cstdlib>
#include <iostream>

namespace faaskit_tests {

inline bool check_failed = false;

// CHECK goes on after a failure, and Catch tells only listeners of it.
#ifdef FAASKIT_CATCH3
struct FailureListener : Catch::EventListenerBase {
  using EventListenerBase::EventListenerBase;
  void assertionEnded(const Catch::AssertionStats& stats) override {
    if (!stats.assertionResult.isOk()) check_failed = true;
  }
};
CATCH_REGISTER_LISTENER(FailureListener)
#else
struct FailureListener : Catch::TestEventListenerBase {
  using TestEventListenerBase::TestEventListenerBase;
  bool assertionEnded(const Catch::AssertionStats& stats) override {
    if (!stats.assertionResult.isOk()) check_failed = true;
    return false;
  }
};
// Once per program, not once per file.
inline const Catch::ListenerRegistrar<FailureListener> failure_listener;
#endif

[[noreturn]] inline void skip(const std::string& reason) {
  std::cout.flush();
  std::fflush(stdout);
  std::fprintf(stderr,
               check_failed ? "a check failed before the rest was to be skipped: %s\n" : "SKIPPED: %s\n",
               reason.c_str());
  std::_Exit(check_failed ? 1 : 77);
}

}  // namespace faaskit_tests

// Ends this test case as skipped, with the reason. ctest runs every case in a process of its own and
// takes exit status 77 for "skipped". What failed before stays failed.
#define FAASKIT_SKIP(reason) faaskit_tests::skip(reason)
