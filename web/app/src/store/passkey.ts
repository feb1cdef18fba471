/**
 * Passkeys as guards: a secret that an authenticator gives to this page alone, through WebAuthn's PRF extension.
 *
 * Follows WebAuthn Level 3, section 10.1.4. The authenticator asks for its user (`userVerification`); the challenge is
 * not checked by anybody, since there is no server to log in to: what counts is the secret.
 */

import { type Bytes, MitaiError } from "@mitai/verify";

/** What a guard needs of an authenticator; tests replace it. */
export interface Passkeys {
  /** Make a passkey, and its secret for this salt. */
  create(salt: Bytes): Promise<{ readonly credentialId: Bytes; readonly secret: Bytes }>;
  /** The secret of a passkey for this salt. */
  open(credentialId: Bytes, salt: Bytes): Promise<Bytes>;
}

export const webAuthn: Passkeys = {
  async create(salt) {
    const made = await ask(() =>
      navigator.credentials.create({
        publicKey: {
          challenge: random(32),
          rp: { name: "mitai" },
          user: { id: random(16), name: "mitai", displayName: "mitai" },
          pubKeyCredParams: [-7, -8, -257].map((alg) => ({ type: "public-key", alg })), // ES256, EdDSA, RS256
          authenticatorSelection: { residentKey: "preferred", userVerification: "required" },
          extensions: { prf: { eval: { first: salt } } },
        },
      }),
    );
    const credentialId = new Uint8Array(made.rawId);
    const { enabled, results } = made.getClientExtensionResults().prf ?? {};
    if (!enabled && !results) throw unsupported();
    // Many authenticators give the secret only when they are asked a second time.
    return { credentialId, secret: results ? secretOf(results) : await webAuthn.open(credentialId, salt) };
  },

  async open(credentialId, salt) {
    const shown = await ask(() =>
      navigator.credentials.get({
        publicKey: {
          challenge: random(32),
          allowCredentials: [{ type: "public-key", id: credentialId }],
          userVerification: "required",
          extensions: { prf: { eval: { first: salt } } },
        },
      }),
    );
    return secretOf(shown.getClientExtensionResults().prf?.results);
  },
};

async function ask(request: () => Promise<Credential | null>): Promise<PublicKeyCredential> {
  if (!("credentials" in navigator) || typeof PublicKeyCredential === "undefined") throw unsupported();
  let credential: Credential | null;
  try {
    credential = await request();
  } catch (error) {
    if (error instanceof DOMException && error.name === "NotSupportedError") throw unsupported();
    throw new MitaiError("store.passkey-refused", "no passkey was given", "try again, or use a passphrase");
  }
  if (!(credential instanceof PublicKeyCredential)) throw unsupported();
  return credential;
}

function secretOf(results: AuthenticationExtensionsPRFValues | undefined): Bytes {
  const first = results?.first;
  if (first === undefined) throw unsupported();
  return first instanceof ArrayBuffer
    ? new Uint8Array(first.slice(0))
    : Uint8Array.from(new Uint8Array(first.buffer, first.byteOffset, first.byteLength));
}

function unsupported(): MitaiError {
  return new MitaiError(
    "store.passkey-unsupported",
    "this browser or authenticator can't guard data with a passkey",
    "use a passphrase",
  );
}

function random(size: number): Bytes {
  return crypto.getRandomValues(new Uint8Array(size));
}
