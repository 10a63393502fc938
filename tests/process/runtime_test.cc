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

TEST_CASE("functions of node answer, and call on each other's files", "[process][node]") {
  Stage stage;
  need_node(stage);
  stage.folders.write("index.js",
                      "const { text } = require('./part');\nlet calls = 0;\n"
                      "exports.handler = async (payload) => text + payload + ++calls;\n");
  stage.folders.write("part.js", "exports.text = 'hello ';\n");
  auto sandbox = stage.sandbox();
  CHECK(sandbox->ask("you ") == "hello you 1");
  CHECK(sandbox->ask("you ") == "hello you 2");
  // As with any other code: no host in sight.
  stage.folders.write("look.mjs", R"(
import fs from 'node:fs'; import { spawnSync } from 'node:child_process'; import { Worker } from 'node:worker_threads';
export async function handler() {
  const worker = new Worker('require("worker_threads").parentPort.postMessage(42)', { eval: true });
  const said = await new Promise((done) => worker.once('message', done));
  return [fs.existsSync('/root'), fs.existsSync('/sys'), spawnSync('id', ['-u']).stdout.toString().trim(), said];
}
)");
  stage.spec.handler = "look:handler";
  CHECK(stage.sandbox()->ask("") == "[false,false,\"1000\",42]");
}

TEST_CASE("garbage of node is collected within the function's memory", "[process][node]") {
  Stage stage;
  need_node(stage);
  stage.spec.limits.memory_bytes = 96 << 20;
  stage.folders.write("index.js", R"(
exports.handler = () => {
  let kept = [];
  for (let i = 0; i < 4000; ++i) { kept.push(new Array(4000).fill(i)); if (kept.length > 100) kept = []; }
  return 'done';
};
)");
  auto sandbox = stage.sandbox();
  CHECK(sandbox->ask("") == "done");
  CHECK_FALSE(sandbox->seat().usage().oom_killed);
}

TEST_CASE("a web application answers", "[process]") {
  Stage stage;
  stage.folders.write("web.py", R"(
async def app(scope, receive, send):
    if scope['type'] != 'http': raise NotImplementedError
    await send({'type': 'http.response.start', 'status': 200, 'headers': []})
    await send({'type': 'http.response.body', 'body': b'from asgi'})
def wsgi(environ, start):
    start('200 OK', [])
    return [b'from wsgi']
)");
  for (const auto& [handler, answer] :
       {std::pair<const char*, const char*>{"asgi:web:app", "from asgi"}, {"wsgi:web:wsgi", "from wsgi"}}) {
    stage.spec.handler = handler;
    CHECK(stage.sandbox()->ask("") == answer);
  }
}

TEST_CASE("checks of real code say where it is at fault, and run none of it", "[process]") {
  Stage stage;
  CreateParams check;
  check.purpose = Purpose::check;
  std::string output;
  stage.folders.write("main.py", "raise SystemExit(9)\ndef handler(payload, context): return b''\n");
  stage.spec.handler = "main:handler";
  CHECK(run(stage, output, check) == "exited with status 0");
  stage.folders.write("main.py", "def handler(payload, context):\n  return (\n");
  CHECK(run(stage, output, check) == "exited with status 1");
  CHECK_THAT(output, ContainsSubstring("main.py:2"));
  stage.folders.write("main.py", "");
  CHECK(run(stage, output, check) == "exited with status 1");
  CHECK_THAT(output, ContainsSubstring("handler"));

  std::filesystem::remove(stage.folders.code() + "/main.py");
  need_node(stage);
  stage.folders.write("index.js", "process.exit(9); exports.handler = () => 1;\n");
  CHECK(run(stage, output, check) == "exited with status 0");
  stage.folders.write("index.js", "exports.handler = () => {\n  return (;\n};\n");
  CHECK(run(stage, output, check) == "exited with status 1");
  CHECK_THAT(output, ContainsSubstring("index.js:2"));
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

// A code store looks for links once, when it hands out the path. Who owns a prepared folder may put one there
// later, to the code of a neighbour, say, in a folder that only root may enter.
TEST_CASE("where the code is now may not have become a link", "[process]") {
  const bool ordinary = GENERATE(false, true);
  Stage stage({.ordinary_user = ordinary});
  const std::string root = stage.folders.root();
  std::filesystem::create_directories(root + "/mine/function");
  std::filesystem::create_directories(root + "/neighbour/function");
  std::filesystem::rename(root + "/mine", root + "/was-mine");
  std::filesystem::create_symlink(root + "/neighbour", root + "/mine");
  const auto refused = [&](const std::string& path) {
    auto seat = stage.seat();
    const absl::Status status =
        stage.factory->create({.spec = &stage.spec, .seat = seat.get(), .code_path = path}).status();
    CAPTURE(path, status.ToString());
    CHECK_FALSE(status.ok());
    CHECK_THAT(std::string(status.message()), ContainsSubstring("code_path " + path));
    CHECK(seat->kill().ok());
  };
  refused(root + "/mine/function");
  std::filesystem::create_symlink(root + "/neighbour/function", root + "/was-mine/link");
  refused(root + "/was-mine/link");
  // The spec's own path is its author's to choose.
  stage.spec.code_path = root + "/link";
  std::filesystem::create_symlink(stage.folders.code(), stage.spec.code_path);
  stage.sandbox();
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
