// One name for Catch2 v2 (Debian 12) and v3 (elsewhere). Include only this in tests.
#pragma once

#if __has_include(<catch2/catch_all.hpp>)
#include <catch2/catch_all.hpp>
using Catch::Approx;
using Catch::Matchers::ContainsSubstring;
#else
#include <catch2/catch.hpp>
namespace Catch::Matchers {
inline auto ContainsSubstring(const std::string& text) { return Contains(text); }
}  // namespace Catch::Matchers
using Catch::Matchers::ContainsSubstring;
#endif

#include <cstdio>
#include <cstdlib>

// Ends this test case as skipped, with the reason. ctest runs every case in a process of its own and
// takes exit status 77 for "skipped".
#define FAASKIT_SKIP(reason)                                          \
  do {                                                                \
    std::fprintf(stderr, "SKIPPED: %s\n", std::string(reason).c_str()); \
    std::fflush(stderr);                                              \
    std::_Exit(77);                                                   \
  } while (false)
