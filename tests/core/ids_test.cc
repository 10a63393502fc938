#include "catch.hpp"

#include <string>

#include "faaskit/core/ids.h"
#include "faaskit/core/sandbox.h"

using namespace faaskit;

namespace {
std::string why_not(std::string_view name) { return validate_function_name(name).ToString(); }
}  // namespace

// Names become file and key names: one that slips through could leave its folder.
TEST_CASE("function names are [a-z0-9][a-z0-9._-]{0,62} without '..'", "[core]") {
  for (const char* good : {"a", "0", "thumbnail", "a.b_c-d", "9-", "a.b.c"})
    CHECK(validate_function_name(good).ok());
  CHECK(validate_function_name(std::string(63, 'x')).ok());

  CHECK_THAT(why_not(""), ContainsSubstring("0 characters; 1 to 63"));
  CHECK_THAT(why_not(std::string(64, 'x')), ContainsSubstring("64 characters; 1 to 63"));
  for (const char* bad : {".a", "-a", "_a", "A", "/a"}) {
    CHECK_THAT(why_not(bad), ContainsSubstring("must begin with a lower-case letter or a digit"));
  }
  CHECK_THAT(why_not("a..b"), ContainsSubstring("contains '..'"));
  CHECK_THAT(why_not("a/b"), ContainsSubstring("byte 0x2f at 1"));
  CHECK_THAT(why_not("aB"), ContainsSubstring("byte 0x42 at 1"));
  CHECK_THAT(why_not(std::string("a\0b", 3)), ContainsSubstring("byte 0x00 at 1"));
  CHECK_THAT(why_not("a\xc3\xa4"), ContainsSubstring("byte 0xc3 at 1"));
  for (const auto& bad : {"", "a/b", "../x"}) CHECK(absl::IsInvalidArgument(validate_function_name(bad)));
}

TEST_CASE("ids print as people read them in logs", "[core]") {
  CHECK(to_string(SandboxId{.host = 0xab, .number = 12}) == "sb-ab-12");
  CHECK(to_string(RequestId{.invoker = 0xff, .sequence = 3}) == "rq-ff-3");
  CHECK(to_string(LeaseId{.request = {.invoker = 0xff, .sequence = 3}, .attempt = 2}) == "rq-ff-3.2");
  CHECK(to_string(StartId{.nonce = 0x10, .number = 4}) == "st-10-4");
  CHECK(to_string(SandboxState::disputed) == "disputed");
  CHECK(to_string(StartKind::stolen) == "stolen");
}
