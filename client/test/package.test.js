/** What an app gets when it installs the package. */
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

import { parse } from "acorn";

const run = promisify(execFile);
const ROOT = fileURLToPath(new URL("..", import.meta.url));
const read = (name) => readFile(join(ROOT, name), "utf8");
const { name } = JSON.parse(await read("package.json"));

let app;
let packed;

before(async () => {
  app = await mkdtemp(join(tmpdir(), "app-"));
  const { stdout } = await run("npm", ["pack", "--json", "--pack-destination", app], { cwd: ROOT });
  [packed] = JSON.parse(stdout);
});

after(() => rm(app, { recursive: true }));

const ADAPTERS = ["adapters/film.js", "adapters/hls.js", "adapters/shaka.js", "adapters/videojs.js"];

test("the package holds the client, its types, what explains it, and nothing else", () => {
  assert.deepEqual(
    packed.files.map(({ path }) => path).sort(),
    [...ADAPTERS, "LICENSE", "README.md", "package.json", "stream-client.d.ts", "stream-client.js", "stream-client.tv.js"].sort(),
  );
});

test("nobody can publish it by mistake, or be made to install anything else with it", async () => {
  const manifest = JSON.parse(await read("package.json"));
  assert.equal(manifest.private, true);
  assert.match(manifest.name, /^@/); // a scope can be bound to one registry, a bare name cannot
  for (const kind of ["dependencies", "peerDependencies", "optionalDependencies", "bundleDependencies"])
    assert.equal(manifest[kind], undefined);
  for (const script of ["preinstall", "install", "postinstall", "prepare"])
    assert.equal(manifest.scripts[script], undefined);
});

test("an app that installs the file can import it and is served what the service serves", async () => {
  await writeFile(join(app, "package.json"), '{ "type": "module" }');
  const options = ["--offline", "--no-audit", "--no-fund"];
  await run("npm", ["install", ...options, `./${packed.filename}`], { cwd: app });
  await writeFile(join(app, "app.js"), `import { play } from "${name}"; import { playWithHls } from "${name}/adapters/hls"; console.log(typeof play, typeof playWithHls);`);
  assert.equal((await run(process.execPath, ["app.js"], { cwd: app })).stdout, "function function\n");
  const installed = await readFile(join(app, "node_modules", name, "stream-client.js"), "utf8");
  const served = new URL("../../stream_service/pages/static/stream-client.js", import.meta.url);
  assert.equal(installed, await readFile(served, "utf8"));
});

test("the licence is the project's", async () => {
  assert.equal(await read("LICENSE"), await read("../LICENSE"));
});

test("each option and callback has a type, is explained, and is used", async () => {
  const types = await read("stream-client.d.ts");
  const [, options] = types.match(/interface PlayOptions \{(.*?)\n\}/s);
  const declared = [...options.matchAll(/^ {2}(\w+)\??[:(]/gm)].map(([, option]) => option).sort();
  assert.ok(declared.length >= 15);
  const explained = (await read("README.md"))
    .split("\n")
    .filter((line) => line.startsWith("| `"))
    .flatMap((line) => [...line.split("|")[1].matchAll(/`(\w+)/g)].map(([, option]) => option));
  assert.deepEqual(explained.sort(), declared);
  const code = await read("stream-client.js");
  for (const option of declared) assert.match(code, new RegExp(`\\b${option}\\b`));
});

test("the build for old engines is made of the client, and has the syntax of 2015", async () => {
  const built = join(app, "built.js");
  await run("npm", ["run", "build", "--", `--outfile=${built}`, "--allow-overwrite"], { cwd: ROOT });
  const kept = await read("stream-client.tv.js");
  assert.equal(kept, await readFile(built, "utf8"), "npm run build makes it anew");
  parse(kept, { ecmaVersion: 2015, sourceType: "script" });
});

test("the first example of the README tells each end in words that are true of it", async () => {
  const [, example] = (await read("README.md")).match(/```js\n(.*?)```/s);
  let options;
  let said;
  const page = {
    play: (given) => ((options = given), {}),
    video: { play() {}, pause() {} },
    tell: (text) => (said = text),
    stopButton: {},
    tooManyDevices() {},
  };
  new Function(...Object.keys(page), example.replace(/^import .*$/m, ""))(...Object.values(page));
  const told = (...end) => (options.onEnded(...end), said);
  assert.equal(told("replaced", { replaced_by: { device: "TV" } }), "Now playing on TV");
  assert.equal(told("replaced", { replaced_by: { device: null } }), "Now playing on another device");
  assert.doesNotMatch(told("rejected", new Error("HTTP 401")), /press play/i);
  for (const reason of ["stopped", "paused", "unreachable"]) assert.match(told(reason, {}), /press play/i);
});

test("it is one file without imports", async () => {
  assert.doesNotMatch(await read("stream-client.js"), /^\s*import\b|\bimport\(/m);
});
