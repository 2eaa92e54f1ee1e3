import { X509Certificate } from 'node:crypto';
import { once } from 'node:events';
import type { AddressInfo } from 'node:net';
import { connect, createServer, type TLSSocket } from 'node:tls';
import { describe, expect, it } from 'vitest';
import { createAuthority, issueCertificate } from './x509.ts';

const from = new Date('2026-01-01T00:00:00Z');
const to = new Date('2100-01-01T00:00:00Z');

describe('certificates', () => {
  it('makes an authority that may sign leaves', () => {
    const authority = new X509Certificate(createAuthority('nasmig test', from, to).certificatePem);
    expect(authority.ca).toBe(true);
    expect(authority.subject).toBe('CN=nasmig test');
    expect(authority.verify(authority.publicKey)).toBe(true);
    expect(authority.validFromDate.toISOString()).toBe(from.toISOString());
    expect(authority.validToDate.toISOString()).toBe(to.toISOString());
  });

  it('makes leaves whose names, usages and issuer are as asked', () => {
    const authority = createAuthority('nasmig test', from, to);
    const leaf = issueCertificate(authority, {
      commonName: 'hub',
      organizations: ['system:masters'],
      hosts: ['hub.ns.svc', '127.0.0.1', '::1', 'fd00::1:2'],
      usages: ['server', 'client'],
      notBefore: from,
      notAfter: new Date('2049-12-31T23:59:59Z'),
    });
    const certificate = new X509Certificate(leaf.certificatePem);
    const issuer = new X509Certificate(authority.certificatePem);
    expect(certificate.ca).toBe(false);
    expect(certificate.checkIssued(issuer)).toBe(true);
    expect(certificate.verify(issuer.publicKey)).toBe(true);
    expect(certificate.subject).toBe('O=system:masters\nCN=hub');
    expect(certificate.checkHost('hub.ns.svc')).toBe('hub.ns.svc');
    expect(certificate.checkHost('other.ns.svc')).toBeUndefined();
    expect(certificate.checkIP('127.0.0.1')).toBe('127.0.0.1');
    expect(certificate.subjectAltName).toBe(
      'DNS:hub.ns.svc, IP Address:127.0.0.1, IP Address:0:0:0:0:0:0:0:1, IP Address:FD00:0:0:0:0:0:1:2',
    );
    expect(certificate.keyUsage).toEqual(['1.3.6.1.5.5.7.3.1', '1.3.6.1.5.5.7.3.2']);
    expect(certificate.validToDate.toISOString()).toBe('2049-12-31T23:59:59.000Z');
  });

  it('serves TLS to a client that trusts the authority, and to no other', async () => {
    const authority = createAuthority('one', from, to);
    const leaf = issueCertificate(authority, {
      commonName: 'server',
      hosts: ['localhost'],
      usages: ['server'],
      notBefore: from,
      notAfter: to,
    });
    const server = createServer({ key: leaf.keyPem, cert: leaf.certificatePem }, (socket) =>
      socket.end('ok'),
    );
    server.on('tlsClientError', () => {});
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    const { port } = server.address() as AddressInfo;
    const dial = (ca: string): Promise<TLSSocket> =>
      new Promise((resolve, reject) => {
        const socket = connect({ host: '127.0.0.1', port, ca, servername: 'localhost' }, () =>
          resolve(socket),
        );
        socket.on('error', reject);
      });
    try {
      const socket = await dial(authority.certificatePem);
      expect(socket.authorized).toBe(true);
      socket.destroy();
      await expect(dial(createAuthority('one', from, to).certificatePem)).rejects.toThrow();
    } finally {
      server.close();
    }
  });
});
