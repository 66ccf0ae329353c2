// Checks playback tokens at a CDN's edge, or in any server that has WebCrypto and fetch.
// docs/enforcement.md says what that enforces. Tested in Node 20 by tests/deploy/test_playback_edge.py.

const KEPT_MS = 300_000; // As long as the service lets its public keys be kept.
const KINDS = {
  ES256: { key: { name: "ECDSA", namedCurve: "P-256" }, verify: { name: "ECDSA", hash: "SHA-256" } },
  EdDSA: { key: { name: "Ed25519" }, verify: { name: "Ed25519" } },
};

const bytes = (text) =>
  Uint8Array.from(atob(text.replace(/-/g, "+").replace(/_/g, "/")), (one) => one.charCodeAt(0));
const parsed = (text) => JSON.parse(new TextDecoder().decode(bytes(text)));

/**
 * Make a check.
 * @param {string} keysUrl Address of /.well-known/jwks.json, as the edge reaches it.
 * @param {string} [audience] PLAYBACK_AUDIENCE of the service, if it has one.
 * @returns {(token: string, content?: string) => Promise<object>} Gives the claims of a good token,
 *   and throws for any other: answer 401 then. With `content`, the token must be for it.
 */
export function playbackCheck(keysUrl, audience) {
  let keys = new Map();
  let keptUntil = 0;

  async function keyOf({ kid, alg }) {
    if (Date.now() > keptUntil) {
      const answer = await fetch(keysUrl);
      if (!answer.ok) throw new Error("no public keys");
      keys = new Map((await answer.json()).keys.map((jwk) => [jwk.kid, jwk]));
      keptUntil = Date.now() + KEPT_MS;
    }
    const jwk = keys.get(kid);
    // The key says which algorithm it is for, never the token.
    if (!jwk || jwk.alg !== alg || !KINDS[alg]) throw new Error("unknown key");
    const key = await crypto.subtle.importKey("jwk", jwk, KINDS[alg].key, false, ["verify"]);
    return [key, KINDS[alg].verify];
  }

  return async (token, content) => {
    const [head, body, signature, more] = token.split(".");
    if (!signature || more !== undefined) throw new Error("no token");
    const [key, how] = await keyOf(parsed(head));
    const signed = new TextEncoder().encode(`${head}.${body}`);
    if (!(await crypto.subtle.verify(how, key, bytes(signature), signed))) throw new Error("forged");
    const claims = parsed(body);
    if (claims.iss !== "stream-service" || claims.aud !== audience) throw new Error("not for us");
    if (!(claims.exp > Date.now() / 1000)) throw new Error("over");
    if (content !== undefined && claims.content !== content) throw new Error("another content");
    return claims;
  };
}
