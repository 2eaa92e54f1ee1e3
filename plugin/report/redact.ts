// What must not leave the cluster in a support bundle: values that are, or may be, secrets. Names stay, so that one sees what was
// there. Better too much taken out than too little. Pure.
export const REDACTED = '(left out)';

/** Names of fields and variables whose value is nobody's business. */
const SECRET_NAME =
  /token|passw|secret|credential|private|api-?_?key|access-?_?key|auth|cookie|session|passphrase|signature|\bkey\b|_key$|Key$/i;
/** Fields with such a name that hold no secret: names of objects, and what tells how something is set up. */
const HARMLESS_NAME =
  /^(secretName|secretRef|secretKeyRef|imagePullSecrets|automountServiceAccountToken|serviceAccountToken|tokenReviews?|authorization-mode|key|keyPath|topologyKey|configMapKeyRef|privateKeyAlgorithm|private|privileged|expirationSeconds|matchLabelKeys|nodeDrainTaintKey|[a-zA-Z]*SecretRef)$/;
/** A flag without its value. */
const SECRET_FLAG = /^--?[\w-]+$/;
/** Cloud-init, sysprep and the like: scripts with passwords, in a VMI's volumes. */
const SCRIPT_NAME =
  /^(userData|userDataBase64|networkData|networkDataBase64|sysprep|ignition|kubeconfig|sshAuthorizedKeys|accessCredentials|bootstrap)$/;
/** What kubectl apply remembers is the whole object again, with everything that is left out here. */
const DROPPED_ANNOTATIONS = ['kubectl.kubernetes.io/last-applied-configuration'];
/** Deeper than any API object. */
const MAX_DEPTH = 64;

/** A copy of the value without what may be secret. */
export function redacted(value: unknown, depth = 0): unknown {
  if (depth > MAX_DEPTH) return REDACTED;
  if (typeof value === 'string') return redactedString(value, depth);
  if (Array.isArray(value)) return words(value, depth);
  if (typeof value !== 'object' || value === null) return value;
  const entries = Object.entries(value);
  // { name: DB_PASSWORD, value: … }: an environment variable, or an argument of its kind.
  const variable = entries.find(([name]) => name === 'name')?.[1];
  const isSecretVariable = typeof variable === 'string' && SECRET_NAME.test(variable);
  return Object.fromEntries(
    entries.flatMap(([name, inner]): [string, unknown][] => {
      if (name === 'managedFields' || DROPPED_ANNOTATIONS.includes(name)) return [];
      if (SCRIPT_NAME.test(name)) return [[name, REDACTED]];
      if (name === 'value' && isSecretVariable) return [[name, REDACTED]];
      if (SECRET_NAME.test(name) && !HARMLESS_NAME.test(name) && isLeaf(inner)) return [[name, REDACTED]];
      return [[name, redacted(inner, depth + 1)]];
    }),
  );
}

/** A list; the word after one such as `--password` is a secret, too. */
function words(list: readonly unknown[], depth: number): unknown[] {
  return list.map((one, at) => {
    const before = list[at - 1];
    const isSecret =
      typeof one === 'string' &&
      typeof before === 'string' &&
      SECRET_FLAG.test(before) &&
      SECRET_NAME.test(before) &&
      !one.startsWith('-');
    return isSecret ? REDACTED : redacted(one, depth + 1);
  });
}

/** Text that is JSON of an object, as annotations hold it, is looked at as that object. */
function redactedString(text: string, depth: number): string {
  if (/^\s*[{[]/.test(text)) {
    try {
      return JSON.stringify(redacted(JSON.parse(text), depth + 1));
    } catch {
      // It only begins like JSON.
    }
  }
  return redactedText(text);
}

/** Text or bytes in text; numbers and flags are no secrets. */
function isLeaf(value: unknown): boolean {
  return typeof value === 'string' || (Array.isArray(value) && value.every((one) => typeof one === 'string'));
}

const SECRET_WORD =
  'password|passwd|passphrase|token|secret|sessionKey|session_key|api[_-]?key|access[_-]?key|private[_-]?key';

const PATTERNS: readonly [RegExp, string][] = [
  // A JSON Web Token: three parts in base64url, the first begins with {".
  [/eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*/g, REDACTED],
  [/-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(-----END [A-Z ]*PRIVATE KEY-----|$)/g, REDACTED],
  [/\b(bearer|basic)\s+[\w+/=.~-]{8,}/gi, `$1 ${REDACTED}`],
  // user:password@ in an address, with or without its scheme, up to the last @: a password may hold one.
  [/(\/\/)[^\s/:@"'\\]+:[^\s/"'\\]+@/g, `$1${REDACTED}@`],
  // A script in JSON in text, as a log has it: "userData":"…", also with its quotes escaped.
  [
    /((\\*)"(?:userData|networkData|userDataBase64|networkDataBase64)\2"\s*:\s*)\2"[\s\S]*?(?<!\\)\2"/g,
    `$1$2"${REDACTED}$2"`,
  ],
  // --password hunter2
  [
    new RegExp(`(--?[\\w-]{0,64}(?:${SECRET_WORD})\\s+)("[^"]*"|'[^']*'|[^\\s-][^\\s]*)`, 'gi'),
    `$1${REDACTED}`,
  ],
  // token=…, "password": "…", \"password\":\"…\"
  [
    new RegExp(
      `\\b((?:[\\w-]{0,64}(?:${SECRET_WORD}))(?:\\\\*["'])?\\s*[=:]\\s*)((\\\\*)"(?:(?!(?<!\\\\)\\3").)*(?<!\\\\)\\3"|'[^']*'|[^\\s,;&"'}\\\\]+)`,
      'gi',
    ),
    `$1${REDACTED}`,
  ],
];

/** A log, or any text, without what looks like a secret. */
export function redactedText(text: string): string {
  let out = text;
  for (const [pattern, replacement] of PATTERNS) out = out.replace(pattern, replacement);
  return out;
}
