// DeployChecks that come with the library. Run them with run_checks(), in this order, with your own between.
#pragma once

#include <chrono>
#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "faaskit/core/export.h"
#include "faaskit/port/deploy_check.h"

namespace faaskit::code {

// "handler": the file that the handler names is there, regular, read by others, and for "exec" executable by
// them. python3: the module, as source, compiled or a folder, in the code or in its site-packages; node:
// module with .js, .cjs or .mjs. Code that is one file needs no more than to be one.
FAASKIT_EXPORT std::shared_ptr<DeployCheck> make_handler_check();

struct ElfCheckOptions {
  // What a sandbox sees of the host: where loaders and interpreters may be. As the factory's host_paths.
  std::vector<std::string> host_paths = {"/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"};
};
// "elf": the file of an "exec" function is a program of this machine's architecture, and the loader that it
// names is on this machine. A script is taken as well, if its first line names an interpreter that is there:
// what counts is that it speaks the channel, and a script can. Other runtimes pass.
FAASKIT_EXPORT std::shared_ptr<DeployCheck> make_elf_check(ElfCheckOptions options = {});

struct SyntaxCheckOptions {
  // From the creation of its sandbox to its end. A large site-packages takes seconds.
  std::chrono::milliseconds timeout = std::chrono::seconds(20);
  // Of what the runtime says, the first so many bytes are kept; the rest is read and dropped.
  std::size_t max_output_bytes = 4096;
};
// "syntax": the function's runtime reads the code without running it, in a sandbox of its own, without
// network, in a seat of its own (Purpose::check). kInvalidArgument is what it found: "main.py:3: invalid
// syntax". kDeadlineExceeded, kUnavailable: it could not tell. Runtime "exec" passes: there is no syntax.
// Whatever happens, the sandbox and its seat are gone when check() returns; up to 5 s more for that.
// REQUIRES: `factory` and `freezer` outlive the check.
FAASKIT_EXPORT std::shared_ptr<DeployCheck> make_syntax_check(SandboxFactory& factory, Freezer& freezer,
                                                              SyntaxCheckOptions options = {});

}  // namespace faaskit::code
