// X.509 v3 certificates (RFC 5280) with ECDSA P-256 keys, written as DER by hand: Node signs and reads certificates but
// cannot make them, and the operator must not depend on cert-manager or a shell. Only what a private CA and its serving and
// client certificates need: names, validity, basic constraints, key usage, subject alternative names, key identifiers.
import {
  createHash,
  createPrivateKey,
  createPublicKey,
  generateKeyPairSync,
  type KeyObject,
  randomBytes,
  sign,
} from 'node:crypto';
import { isIP } from 'node:net';

export interface KeyAndCertificate {
  /** PKCS #8 private key, PEM. */
  keyPem: string;
  certificatePem: string;
}

export interface CertificateRequest {
  commonName: string;
  /** Organizations; Kubernetes reads them as groups of a client certificate. */
  organizations?: readonly string[];
  /** DNS names and IP addresses a serving certificate is for. */
  hosts?: readonly string[];
  usages: readonly ('server' | 'client')[];
  notBefore: Date;
  notAfter: Date;
}

const TAG = {
  boolean: 0x01,
  integer: 0x02,
  bitString: 0x03,
  octetString: 0x04,
  oid: 0x06,
  utf8: 0x0c,
  sequence: 0x30,
  set: 0x31,
};

const OID = {
  ecdsaWithSha256: '1.2.840.10045.4.3.2',
  commonName: '2.5.4.3',
  organization: '2.5.4.10',
  subjectKeyIdentifier: '2.5.29.14',
  keyUsage: '2.5.29.15',
  subjectAltName: '2.5.29.17',
  basicConstraints: '2.5.29.19',
  authorityKeyIdentifier: '2.5.29.35',
  extendedKeyUsage: '2.5.29.37',
  serverAuth: '1.3.6.1.5.5.7.3.1',
  clientAuth: '1.3.6.1.5.5.7.3.2',
} as const;

/** KeyUsage bits (RFC 5280, 4.2.1.3), most significant first: digitalSignature is bit 0, keyCertSign bit 5, cRLSign bit 6. */
const DIGITAL_SIGNATURE = Buffer.from([0x07, 0x80]);
const CERT_AND_CRL_SIGN = Buffer.from([0x01, 0x06]);

/** Makes a self-signed CA with a new key. It may sign leaves only (path length 0). */
export function createAuthority(commonName: string, notBefore: Date, notAfter: Date): KeyAndCertificate {
  const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const name = distinguishedName(commonName, []);
  const keyId = keyIdentifier(publicKey);
  const certificate = buildCertificate({
    issuer: name,
    subject: name,
    notBefore,
    notAfter,
    publicKey,
    signingKey: privateKey,
    extensions: [
      extension(
        OID.basicConstraints,
        true,
        sequence(der(TAG.boolean, Buffer.from([0xff])), integer(Buffer.from([0]))),
      ),
      extension(OID.keyUsage, true, der(TAG.bitString, CERT_AND_CRL_SIGN)),
      extension(OID.subjectKeyIdentifier, false, der(TAG.octetString, keyId)),
    ],
  });
  return { keyPem: exportKey(privateKey), certificatePem: toPem(certificate) };
}

/** Makes a leaf with a new key, signed by `authority`. A serving certificate needs `hosts`. */
export function issueCertificate(
  authority: KeyAndCertificate,
  request: CertificateRequest,
): KeyAndCertificate {
  const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const authorityKey = createPrivateKey(authority.keyPem);
  const usages = request.usages.map((usage) => oid(usage === 'server' ? OID.serverAuth : OID.clientAuth));
  const extensions = [
    extension(OID.basicConstraints, true, sequence()),
    extension(OID.keyUsage, true, der(TAG.bitString, DIGITAL_SIGNATURE)),
    extension(OID.extendedKeyUsage, false, sequence(...usages)),
    extension(OID.subjectKeyIdentifier, false, der(TAG.octetString, keyIdentifier(publicKey))),
    extension(
      OID.authorityKeyIdentifier,
      false,
      sequence(der(0x80, keyIdentifier(createPublicKey(authorityKey)))), // [0] keyIdentifier
    ),
  ];
  if (request.hosts !== undefined && request.hosts.length > 0) {
    extensions.push(extension(OID.subjectAltName, false, sequence(...request.hosts.map(alternativeName))));
  }
  const certificate = buildCertificate({
    issuer: subjectOf(authority.certificatePem),
    subject: distinguishedName(request.commonName, request.organizations ?? []),
    notBefore: request.notBefore,
    notAfter: request.notAfter,
    publicKey,
    signingKey: authorityKey,
    extensions,
  });
  return { keyPem: exportKey(privateKey), certificatePem: toPem(certificate) };
}

interface CertificateParts {
  issuer: Buffer;
  subject: Buffer;
  notBefore: Date;
  notAfter: Date;
  publicKey: KeyObject;
  signingKey: KeyObject;
  extensions: Buffer[];
}

function buildCertificate(parts: CertificateParts): Buffer {
  const algorithm = sequence(oid(OID.ecdsaWithSha256));
  // 16 random bytes, first bit clear so that the number is positive, second set so that it is never short.
  const serial = randomBytes(16);
  serial[0] = ((serial[0] ?? 0) & 0x7f) | 0x40;
  const body = sequence(
    der(0xa0, integer(Buffer.from([2]))), // [0] version v3
    integer(serial),
    algorithm,
    parts.issuer,
    sequence(time(parts.notBefore), time(parts.notAfter)),
    parts.subject,
    parts.publicKey.export({ type: 'spki', format: 'der' }),
    der(0xa3, sequence(...parts.extensions)), // [3] extensions
  );
  const signature = sign('sha256', body, parts.signingKey);
  return sequence(body, algorithm, der(TAG.bitString, Buffer.concat([Buffer.from([0]), signature])));
}

function exportKey(key: KeyObject): string {
  return key.export({ type: 'pkcs8', format: 'pem' }).toString();
}

function keyIdentifier(publicKey: KeyObject): Buffer {
  return createHash('sha1')
    .update(publicKey.export({ type: 'spki', format: 'der' }))
    .digest();
}

function distinguishedName(commonName: string, organizations: readonly string[]): Buffer {
  const attribute = (type: string, value: string) =>
    der(TAG.set, sequence(oid(type), der(TAG.utf8, Buffer.from(value, 'utf8'))));
  return sequence(
    ...organizations.map((organization) => attribute(OID.organization, organization)),
    attribute(OID.commonName, commonName),
  );
}

/** The subject of a certificate as its own DER bytes, so that issuer and subject match byte for byte. */
function subjectOf(certificatePem: string): Buffer {
  const certificate = fromPem(certificatePem);
  const outer = readElement(certificate, 0);
  const body = readElement(certificate, outer.contentStart);
  let offset = body.contentStart;
  // version [0], serial, algorithm, issuer, validity, subject
  for (let index = 0; index < 5; index += 1) offset = readElement(certificate, offset).end;
  return certificate.subarray(offset, readElement(certificate, offset).end);
}

function readElement(bytes: Buffer, start: number): { contentStart: number; end: number } {
  const first = bytes.readUInt8(start + 1);
  if (first < 0x80) return { contentStart: start + 2, end: start + 2 + first };
  const lengthBytes = first & 0x7f;
  const length = bytes.readUIntBE(start + 2, lengthBytes);
  return { contentStart: start + 2 + lengthBytes, end: start + 2 + lengthBytes + length };
}

function alternativeName(host: string): Buffer {
  switch (isIP(host)) {
    case 4:
      return der(0x87, Buffer.from(host.split('.').map(Number))); // [7] iPAddress
    case 6:
      return der(0x87, ipv6Bytes(host));
    default:
      return der(0x82, Buffer.from(host, 'ascii')); // [2] dNSName
  }
}

function ipv6Bytes(address: string): Buffer {
  const [head = '', tail] = address.split('::');
  const groups = (part: string) => (part === '' ? [] : part.split(':'));
  const front = groups(head);
  const back = tail === undefined ? [] : groups(tail);
  const all =
    tail === undefined
      ? front
      : [...front, ...Array<string>(8 - front.length - back.length).fill('0'), ...back];
  const bytes = Buffer.alloc(16);
  all.forEach((group, index) => {
    bytes.writeUInt16BE(Number.parseInt(group, 16), index * 2);
  });
  return bytes;
}

function extension(type: string, critical: boolean, value: Buffer): Buffer {
  const flag = critical ? [der(TAG.boolean, Buffer.from([0xff]))] : [];
  return sequence(oid(type), ...flag, der(TAG.octetString, value));
}

function sequence(...items: Buffer[]): Buffer {
  return der(TAG.sequence, Buffer.concat(items));
}

function integer(value: Buffer): Buffer {
  return der(TAG.integer, value);
}

/** UTCTime to 2049, GeneralizedTime after (RFC 5280, 4.1.2.5). */
function time(date: Date): Buffer {
  const digits = date.toISOString().replace(/[-:T]/g, '').slice(0, 14);
  return date.getUTCFullYear() < 2050
    ? der(0x17, Buffer.from(`${digits.slice(2)}Z`, 'ascii'))
    : der(0x18, Buffer.from(`${digits}Z`, 'ascii'));
}

function oid(dotted: string): Buffer {
  const [first = 0, second = 0, ...rest] = dotted.split('.').map(Number);
  const bytes = [first * 40 + second];
  for (const arc of rest) {
    const groups = [arc & 0x7f];
    for (let left = Math.floor(arc / 128); left > 0; left = Math.floor(left / 128))
      groups.unshift((left & 0x7f) | 0x80);
    bytes.push(...groups);
  }
  return der(TAG.oid, Buffer.from(bytes));
}

function der(tag: number, content: Buffer): Buffer {
  const length = content.length;
  let header: number[];
  if (length < 0x80) header = [tag, length];
  else if (length < 0x100) header = [tag, 0x81, length];
  else if (length < 0x10000) header = [tag, 0x82, length >> 8, length & 0xff];
  else
    throw new RangeError(
      `NASMIG_CERTIFICATE_TOO_LARGE: ${length} bytes in one DER element; use fewer host names`,
    );
  return Buffer.concat([Buffer.from(header), content]);
}

function toPem(certificate: Buffer): string {
  const lines = certificate.toString('base64').match(/.{1,64}/g) ?? [];
  return `-----BEGIN CERTIFICATE-----\n${lines.join('\n')}\n-----END CERTIFICATE-----\n`;
}

function fromPem(pem: string): Buffer {
  return Buffer.from(pem.replace(/-----(BEGIN|END) CERTIFICATE-----|\s/g, ''), 'base64');
}
