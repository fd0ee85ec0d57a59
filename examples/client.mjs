// A signing client of the sidecar for Node 18 or later, without any package. TypeScript reads its types from the comments (`allowJs`).
//
//   import { call } from "./client.mjs";
//   await call("POST", "/v1/contexts", { text: "The user prefers short answers.", level: "long_term" });
//   const found = await call("POST", "/v1/contexts/search", { query: "How long should an answer be?", token_budget: 500 });
import { createHash, createHmac, randomUUID } from "node:crypto";
import { readFile } from "node:fs/promises";
import { env } from "node:process";

/**
 * The headers that sign a request to `target`, a path with or without a query.
 * @param {{id: string, key: string}} key of the key file
 * @param {string} method
 * @param {string} target
 * @param {string} body
 */
export function sign(key, method, target, body, created = Math.floor(Date.now() / 1000), nonce = randomUUID()) {
  const [path, query = ""] = target.split(/\?(.*)/s);
  const digest = `sha-256=:${createHash("sha256").update(body).digest("base64")}:`;
  const parameters =
    `("@method" "@path" "@query" "content-digest");created=${created};nonce="${nonce}";keyid="${key.id}";alg="hmac-sha256"`;
  const request = `"@method": ${method}\n"@path": ${path}\n"@query": ?${query}\n`;
  const base = `${request}"content-digest": ${digest}\n"@signature-params": ${parameters}`;
  const mac = createHmac("sha256", Buffer.from(key.key, "base64")).update(base).digest("base64");
  return { "Content-Digest": digest, "Signature-Input": `sig1=${parameters}`, Signature: `sig1=:${mac}:` };
}

/**
 * The answer to a request. Keys are rotated, so the file is read for each one.
 * @param {string} method
 * @param {string} target
 * @param {unknown} [message]
 */
export async function call(method, target, message) {
  const key = JSON.parse(await readFile(env.CONTEXT_MANAGER_KEYS ?? "", "utf8")).active;
  const body = message === undefined ? "" : JSON.stringify(message);
  // What is signed is what is sent: with all that a URL does not take as it is written in percent.
  const url = new URL(target, env.CONTEXT_MANAGER_URL);
  const headers = { "Content-Type": "application/json", ...sign(key, method, url.pathname + url.search, body) };
  const response = await fetch(url, { method, headers, body: body || undefined });
  const lines = response.headers.get("Content-Type") === "application/jsonl"; // an export
  const answer = lines ? await response.text() : await response.json();
  if (!response.ok) throw new Error(`${answer.code}: ${answer.detail}`); // docs/errors.md has every code
  return answer;
}
