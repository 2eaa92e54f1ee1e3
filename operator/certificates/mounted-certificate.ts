// The webhook's certificate when cert-manager makes it: the files of its Secret, mounted by kubelet, which also puts renewed ones
// there. Read as a whole and checked, because files of a renewal can be seen one by one.
import { createPrivateKey, X509Certificate } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import type { KeyAndCertificate } from './x509.ts';

export interface MountedCertificate extends KeyAndCertificate {
  /** PEM certificates that it chains to: what the API server is told to trust. */
  readonly authorityPem: string;
}

/** The directory has no usable certificate; the message says which file and why. */
export class MountedCertificateError extends Error {
  readonly code = 'NASMIG_WEBHOOK_CERTIFICATE';

  constructor(file: string, problem: string) {
    super(
      `the webhook's certificate cannot be used: ${file}: ${problem}; check cert-manager's Certificate and its Secret`,
    );
    this.name = 'MountedCertificateError';
  }
}

/** Reads `tls.crt`, `tls.key` and `ca.crt` (without it: `tls.crt`, as for a self-signed one). Throws {@link MountedCertificateError}. */
export async function readMountedCertificate(directory: string): Promise<MountedCertificate> {
  const certificateFile = path.join(directory, 'tls.crt');
  const keyFile = path.join(directory, 'tls.key');
  const authorityFile = path.join(directory, 'ca.crt');
  const certificatePem = await read(certificateFile);
  const keyPem = await read(keyFile);
  const authorityPem = await readFile(authorityFile, 'utf8').catch(() => '');
  const certificate = parsed(certificateFile, () => new X509Certificate(certificatePem));
  const key = parsed(keyFile, () => createPrivateKey(keyPem));
  if (!certificate.checkPrivateKey(key))
    throw new MountedCertificateError(keyFile, 'it is not the key of tls.crt');
  if (authorityPem !== '') parsed(authorityFile, () => new X509Certificate(authorityPem));
  return { certificatePem, keyPem, authorityPem: authorityPem === '' ? certificatePem : authorityPem };
}

async function read(file: string): Promise<string> {
  try {
    return await readFile(file, 'utf8');
  } catch (error) {
    throw new MountedCertificateError(file, (error as Error).message);
  }
}

function parsed<T>(file: string, parse: () => T): T {
  try {
    return parse();
  } catch (error) {
    throw new MountedCertificateError(file, (error as Error).message);
  }
}
