import assert from "node:assert/strict";
import { test } from "node:test";

import { World, started } from "./world.js";

test("it starts, and beats when the service says", async () => {
  const world = new World();
  try {
    world.network = () => started({ heartbeat_in: 7 });
    world.play();
    await world.pass(21.5);
    assert.deepEqual(world.requests.map(({ at }) => at), [0, 7, 14, 21]);
  } finally {
    world.close();
  }
});
