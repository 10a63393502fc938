// What a spec must be, to become a sandbox here.
#pragma once

#include <sys/stat.h>

#include <string>

#include <absl/status/status.h>

#include "faaskit/port/sandbox_factory.h"

namespace faaskit::process {

// What a spec is held against.
struct Offer {
  Isolation isolation = Isolation::none;
  std::string missing;  // of the isolation; for people
  // Interpreters, as real files; empty: not here.
  std::string python;
  std::string node;
  bool loopback = false;      // one can be brought up
  bool host_network = false;  // functions may have it
};

// `code` receives what was found at `code_path`, so that its replacement can be noticed.
// kInvalidArgument, kNotFound, kFailedPrecondition name the field.
absl::Status check_spec(const FunctionSpec& spec, const std::string& code_path, const Offer& offer,
                        struct stat& code);

}  // namespace faaskit::process
