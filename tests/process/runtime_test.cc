// If these failed: a function would not be run by the runtime it asks for, or not from the code it is told.
#include "stage.h"

namespace faaskit::process {
namespace {

// All that a short program wrote until it ended; says how it ended.
std::string run(Stage& stage, std::string& output, const CreateParams& more = {}) {
  auto seat = stage.seat();
  CreateParams params;
  params.spec = &stage.spec;
  params.purpose = more.purpose;
  params.code_path = more.code_path;
  params.id = SandboxId{1, stage.seats};
  params.seat = seat.get();
  absl::StatusOr<SandboxHandles> handles = stage.factory->create(params);
  INFO(handles.status().ToString());
  REQUIRE(handles.ok());
  CHECK(handles->exec_time > 0ns);
  Sandbox sandbox(*stage.factory, std::move(seat), params.id, *std::move(handles));
  const std::string how = sandbox.wait();
  output = sandbox.output();
  return how;
}

StageOptions with_runtimes(const std::string& python, const std::string& node) {
  StageOptions options;
  options.factory.python_runtime = python;
  options.factory.node_runtime = node;
  return options;
}

void need_node(Stage& stage) {
  stage.spec.runtime = "node";
  stage.spec.handler = "index:handler";
  if (const absl::Status status = stage.factory->check(stage.spec); !status.ok())
    FAASKIT_SKIP(status.ToString());
}

TEST_CASE("node starts in a sandbox, within the function's memory", "[process][node]") {
  Stage stage(with_runtimes("", R"(
const v8 = require('v8'), fs = require('fs');
console.log(JSON.stringify(process.argv.slice(2)));
console.log(v8.getHeapStatistics().heap_size_limit < 256 * 1024 * 1024);
console.log(fs.fstatSync(3).isSocket(), process.getuid());
)"));
  need_node(stage);
  stage.folders.write("index.js", "");
  stage.spec.handler = "index:handler";
  std::string output;
  CHECK(run(stage, output) == "exited with status 0");
  CHECK(output == "[\"/code\",\"index:handler\"]\ntrue\ntrue 1000\n");
  stage.spec.code_path = stage.folders.code() + "/index.js";
  CHECK(run(stage, output) == "exited with status 0");
  CHECK_THAT(output, ContainsSubstring("[\"/code/index.js\",\"index:handler\"]"));
}

TEST_CASE("to check code, the runtime is told so by its last argument", "[process]") {
  Stage stage(with_runtimes("import sys\nprint(sys.argv[1:])", ""));
  std::string output;
  CHECK(run(stage, output) == "exited with status 0");
  CHECK(output == "['/code', 'probe:handler']\n");
  CreateParams check;
  check.purpose = Purpose::check;
  CHECK(run(stage, output, check) == "exited with status 0");
  CHECK(output == "['/code', 'probe:handler', '--check']\n");
}

TEST_CASE("an executable cannot be checked", "[process]") {
  Stage stage;
  stage.spec.runtime = "exec";
  stage.spec.code_path = stage.folders.write("program", "#!/bin/sh\n", 0755);
  auto seat = stage.seat();
  CHECK(absl::IsUnimplemented(
      stage.factory->create({.spec = &stage.spec, .purpose = Purpose::check, .seat = seat.get()}).status()));
}

TEST_CASE("where the code is now goes before where the spec says", "[process]") {
  Stage stage(with_runtimes("import os\nprint(sorted(os.listdir('/code')))", ""));
  std::string output;
  const std::string other = stage.folders.root() + "/other";
  std::filesystem::create_directory(other);
  std::ofstream(other + "/there.py").flush();
  stage.spec.code_path = "/nowhere";
  CreateParams moved;
  moved.code_path = other;
  CHECK(run(stage, output, moved) == "exited with status 0");
  CHECK(output == "['there.py']\n");
}

TEST_CASE("web applications and modules of node are handlers too", "[process]") {
  Stage stage;
  const auto takes = [&](const std::string& handler) {
    stage.spec.handler = handler;
    const absl::Status status = stage.factory->check(stage.spec);
    CAPTURE(handler, status.ToString());
    CHECK((status.ok() || absl::IsInvalidArgument(status)));
    return status.ok();
  };
  for (const char* good : {"asgi:main:app", "wsgi:pack.main:app", "asgi:app", "main:app.handler"})
    CHECK(takes(good));
  for (const char* bad : {"asgi:main:", "asgi::app", "cgi:main:app", "asgi:wsgi:main:app", "asgi:main:app:x"})
    CHECK_FALSE(takes(bad));
  need_node(stage);
  for (const char* good : {"index:handler", "lib/index:handler", "@scope/a-b.c:exports.handler"})
    CHECK(takes(good));
  for (const char* bad : {"index", ":handler", "index:", "../index:handler", "/index:handler", "a b:handler",
                          "lib/../../x:handler", "index:hand ler"})
    CHECK_FALSE(takes(bad));
}

TEST_CASE("without interpreters their functions are refused, and the others work", "[process]") {
  StageOptions options;
  options.factory.host_paths = {"/lib", "/lib64", "/bin", "/usr/lib"};
  Stage stage(options);
  for (const std::string runtime : {"python3", "node"}) {
    stage.spec.runtime = runtime;
    const absl::Status status = stage.factory->check(stage.spec);
    CHECK(absl::IsFailedPrecondition(status));
    CHECK_THAT(std::string(status.message()), ContainsSubstring("runtime " + runtime));
  }
  stage.spec.runtime = "exec";
  stage.spec.code_path = stage.folders.write("program", "", 0755);
  CHECK(stage.factory->check(stage.spec).ok());
  CHECK(absl::IsInvalidArgument(make_sandbox_factory({.node = "/etc/passwd"}).status()));
}

}  // namespace
}  // namespace faaskit::process
