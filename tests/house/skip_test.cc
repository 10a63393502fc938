// Test cases for skip_test, which runs each and looks at the exit status.
#include "catch.hpp"

TEST_CASE("skips") {
  CHECK(1 + 1 == 2);
  FAASKIT_SKIP("nothing to do here");
}

TEST_CASE("fails, then skips") {
  CHECK(1 + 1 == 3);
  CHECK(1 + 1 == 2);
  FAASKIT_SKIP("nothing more to do here");
}
