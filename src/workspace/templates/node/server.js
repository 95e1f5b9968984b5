import { createServer } from "node:http";
import { pathToFileURL } from "node:url";

export const server = createServer((request, response) => {
  response.setHeader("Content-Type", "application/json");
  response.end(JSON.stringify({ hello: "world", path: request.url }) + "\n");
});

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) {
  const port = Number(process.env.PORT ?? 3000);
  server.listen(port, "127.0.0.1", () => console.log(`http://127.0.0.1:${port}/`));
}
