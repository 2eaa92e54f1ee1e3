import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { NasDeadlineError, VolumeMissingError } from '../nas/nas-error.ts';
import type { OpenOptions, openVolume, Volume } from '../nas/volume.ts';
import { PodVolumes } from './pod-volumes.ts';

/** A directory with volumes of these names, and openings that end as told. */
function podWith(outcomes: Record<string, (options: OpenOptions) => Promise<Volume>>) {
  const directory = mkdtempSync(join(tmpdir(), 'nasmig-volumes-'));
  const asked: string[] = [];
  for (const name of Object.keys(outcomes)) mkdirSync(join(directory, name));
  const open: typeof openVolume = ({ name }, _log, options = {}) => {
    asked.push(name);
    return (outcomes[name] as (options: OpenOptions) => Promise<Volume>)(options);
  };
  const volumes = new PodVolumes(directory, () => {}, open);
  return { volumes, asked, remove: () => rmSync(directory, { recursive: true }) };
}

describe('volumes of a pod', () => {
  it('asks for no volume again whose opening has not come back, and keeps asking for others', async () => {
    let settle = (): void => {};
    const { volumes, asked, remove } = podWith({
      gone: async () => Promise.reject(new VolumeMissingError('gone', '/gone')),
      hanging: async ({ onLate = () => {} }) => {
        settle = onLate;
        throw new NasDeadlineError('hanging', 'opening', 5000);
      },
    });
    for (let round = 0; round < 3; round++) expect(await volumes.open()).toBe(false);
    expect(asked.filter((name) => name === 'hanging')).toHaveLength(1);
    expect(asked.filter((name) => name === 'gone')).toHaveLength(3);
    expect(volumes.describe().map(({ name, readable }) => [name, readable])).toEqual([
      ['gone', false],
      ['hanging', false],
    ]);
    settle();
    await volumes.open();
    expect(asked.filter((name) => name === 'hanging')).toHaveLength(2);
    remove();
  });
});
