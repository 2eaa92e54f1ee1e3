import { Registry } from 'prom-client';
import { expect, it } from 'vitest';
import { settingsFrom } from '../settings.ts';
import { MetricsServer } from './metrics-server.ts';

it('answers on every address of its pod, of IPv4 and IPv6, when no address is set', async () => {
  const { listenHost } = settingsFrom({
    NASMIG_NAMESPACE: 'nas-aware-migration',
    NASMIG_SIDECAR_IMAGE: 'example.org/sidecar:test',
    NASMIG_HUB_URL: 'wss://hub:8443',
  });
  const server = await MetricsServer.start(listenHost, 0, new Registry(), () => true);
  try {
    for (const host of ['127.0.0.1', '[::1]'])
      expect((await fetch(`http://${host}:${server.port}/healthz`)).status).toBe(200);
  } finally {
    await server.stop();
  }
});
