import assert from "node:assert/strict";
import { once } from "node:events";
import { test } from "node:test";

import { server } from "./server.js";

test("it answers with the path", async () => {
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  try {
    const answer = await fetch(`http://127.0.0.1:${server.address().port}/there`);
    assert.deepEqual(await answer.json(), { hello: "world", path: "/there" });
  } finally {
    server.close();
    server.closeAllConnections();
  }
});
