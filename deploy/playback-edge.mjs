// Checks playback tokens at a CDN's edge, or in any server that has WebCrypto and fetch.
// docs/enforcement.md says what that enforces. Tested in Node 20 by tests/deploy/test_playback_edge.py.

const KEPT_MS = 300_000; // As long as the service lets its public keys be kept.
const FETCH_MS = 2_000; // What an answer with the keys may take.
const AGAIN_MS = 10_000; // From one fetch to the next at least, whatever tokens come.
const HALF_ORDER = 0xffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551n / 2n; // Of P-256.
const KINDS = {
  ES256: { key: { name: "ECDSA", namedCurve: "P-256" }, verify: { name: "ECDSA", hash: "SHA-256" } },
  EdDSA: { key: { name: "Ed25519" }, verify: { name: "Ed25519" } },
};

const bytes = (text) =>
  Uint8Array.from(atob(text.replace(/-/g, "+").replace(/_/g, "/")), (one) => one.charCodeAt(0));
const number = (raw) => raw.reduce((sum, one) => sum * 256n + BigInt(one), 0n);
const parsed = (text) => JSON.parse(new TextDecoder().decode(bytes(text)));

/** The keys could not be had: nothing is said about the token. Answer 503. */
export class CannotTellError extends Error {}

/**
 * Make a check.
 * @param {string} keysUrl Address of /.well-known/jwks.json, as the edge reaches it.
 * @param {string} [audience] PLAYBACK_AUDIENCE of the service, if it has one.
 * @returns {(token: string, content?: string) => Promise<object>} Gives the claims of a good token. Throws
 *   CannotTellError without the key for it, and another error for any other token: answer 401 then.
 *   With `content`, the token must be for it.
 */
export function playbackCheck(keysUrl, audience) {
  let keys = new Map();
  let fetched = -Infinity; // When the keys came.
  let tried = -Infinity; // When the last fetch ended,
  let failing = false; // and whether it brought none.
  let fetching;

  async function fetchKeys() {
    try {
      const answer = await fetch(keysUrl, { signal: AbortSignal.timeout(FETCH_MS) });
      if (!answer.ok) throw new Error("no public keys");
      keys = new Map((await answer.json()).keys.map((jwk) => [jwk.kid, jwk]));
      fetched = Date.now();
      failing = false;
    } catch {
      // The keys that are kept go on serving.
      failing = true;
    }
    tried = Date.now();
    fetching = undefined;
  }

  async function keyOf({ kid, alg }) {
    if (typeof kid !== "string" || !KINDS[alg]) throw new Error("unknown key");
    const wanted = !keys.has(kid) || Date.now() > fetched + KEPT_MS;
    if (wanted && (fetching || Date.now() > tried + AGAIN_MS)) await (fetching ??= fetchKeys());
    const jwk = keys.get(kid);
    if (!jwk && failing) throw new CannotTellError("no public keys");
    // The key says which algorithm it is for, never the token.
    if (jwk?.alg !== alg) throw new Error("unknown key");
    const key = await crypto.subtle.importKey("jwk", jwk, KINDS[alg].key, false, ["verify"]);
    return [key, KINDS[alg].verify];
  }

  return async (token, content) => {
    const [head, body, signature, more] = token.split(".");
    if (!signature || more !== undefined) throw new Error("no token");
    const [key, how] = await keyOf(parsed(head));
    const signed = new TextEncoder().encode(`${head}.${body}`);
    const raw = bytes(signature);
    if (!(await crypto.subtle.verify(how, key, raw, signed))) throw new Error("forged");
    // An ECDSA signature has two numbers s. The service signs with the lower one and takes no other.
    if (how.name === "ECDSA" && number(raw.slice(32)) > HALF_ORDER) throw new Error("forged");
    const claims = parsed(body);
    if (claims.iss !== "stream-service" || claims.aud !== audience) throw new Error("not for us");
    if (!(claims.exp > Date.now() / 1000)) throw new Error("over");
    if (content !== undefined && claims.content !== content) throw new Error("another content");
    return claims;
  };
}
