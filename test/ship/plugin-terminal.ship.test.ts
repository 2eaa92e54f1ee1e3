// The plugin's live view in a real terminal, against a real API server: it is drawn in place, fits whatever size the window gets,
// and leaves the terminal as it was, however it ends. No operator runs: the status of migrations is played.
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { KubeConfig, type KubernetesObject } from '@kubernetes/client-node';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest';
import type { NasAwareMigrationStatus } from '../../crds/nas-aware-migration.ts';
import { ControlPlane } from '../../hack/control-plane/control-plane.ts';
import { ApiClient } from '../../operator/kubernetes/api-client.ts';
import { resources } from '../../operator/kubernetes/resources.ts';
import { installDefinitions } from '../control-plane/apply.ts';
import { PluginRunner, recordPlugin } from './plugin-runner.ts';
import { Tmux } from './tmux.ts';

const NAMESPACE = 'default';
const COLUMNS = 100;
const ROWS = 24;

let dir: string;
let plane: ControlPlane;
let api: ApiClient;
let runner: PluginRunner;
let terminal: Tmux;
let passed = 0;

// Every case starts the built program many times, on a machine that may do other things.
vi.setConfig({ testTimeout: 240_000 });

beforeAll(async () => {
  dir = await mkdtemp(path.join(tmpdir(), 'nasmig-terminal-'));
  plane = await ControlPlane.start({ dir: path.join(dir, 'control-plane'), controllerManager: false });
  const config = new KubeConfig();
  config.loadFromFile(plane.kubeconfig);
  api = new ApiClient(config, { userAgent: 'test' });
  await installDefinitions(api);
  runner = await PluginRunner.start(plane.kubectl, plane.kubeconfig);
});

beforeEach(async () => {
  terminal = await Tmux.start(runner.environment, COLUMNS, ROWS);
});

afterEach(async (context) => {
  if (context.task.result?.state === 'pass') passed += 1;
  await terminal?.close();
  const { items } = await api.list(resources.nasAwareMigrations, NAMESPACE);
  for (const { metadata } of items)
    await api.delete(resources.nasAwareMigrations, NAMESPACE, metadata?.name ?? '');
});

afterAll(async () => {
  await recordPlugin('terminal', 0, passed);
  await runner?.close();
  api?.close();
  await plane?.stop();
  await rm(dir, { recursive: true, force: true });
});

async function migration(name: string, status: NasAwareMigrationStatus, vmiName = 'db'): Promise<void> {
  await api.create(resources.nasAwareMigrations, {
    apiVersion: 'nasmigration.io/v1alpha1',
    kind: 'NasAwareMigration',
    metadata: { namespace: NAMESPACE, name },
    spec: { vmiName },
  } as KubernetesObject);
  await change(name, status);
}

const change = (name: string, status: object) =>
  api.mergePatch(resources.nasAwareMigrations, NAMESPACE, name, { status }, 'status');

let updates = 0;
const under = (percent: number, more: object = {}): NasAwareMigrationStatus => {
  updates += 1;
  return {
    phase: 'Migrating',
    conditions: [
      {
        type: 'Accelerated',
        status: 'True',
        reason: 'Framed',
        message: 'armed',
        lastTransitionTime: '2026-11-23T12:00:00Z',
      },
    ],
    source: { node: 'node-1' },
    target: { node: 'node-2' },
    progress: {
      percent,
      iteration: 1,
      remainingBytes: 400 * 2 ** 20,
      bytesPerSecond: 210 * 2 ** 20,
      secondsLeft: 2,
      linkBytes: percent * 2 ** 20,
      nasBytes: percent * 20 * 2 ** 20,
      updateTime: new Date(Date.parse('2026-11-23T12:00:00Z') + updates * 10_000).toISOString(),
      ...more,
    },
  };
};

const over = (phase: 'Succeeded' | 'Failed'): object => ({
  phase,
  completionTime: new Date().toISOString(),
  conditions: [
    {
      type: 'Accelerated',
      status: 'True',
      reason: 'Framed',
      message: 'armed',
      lastTransitionTime: '2026-11-23T12:00:00Z',
    },
    {
      type: 'Complete',
      status: 'True',
      reason: phase === 'Failed' ? 'MigrationFailed' : 'Migrated',
      message: phase === 'Failed' ? 'no room on the target' : 'the VM runs on node-2',
      lastTransitionTime: '2026-11-23T12:00:00Z',
    },
  ],
  result: {
    accelerated: phase === 'Succeeded',
    attempt: phase === 'Succeeded' ? 'Accelerated' : 'FailedWhileArmed',
    linkBytes: 80_000_000,
    nasBytes: 700_000_000,
    savedBytes: 900_000_000,
    savedPercent: 90,
    pages: { reference: 200_000, literalRaw: 1000, literalCompressed: 38_000, zero: 22_000 },
    durationMs: 14_920,
    downtimeMs: 111,
  },
});

const times = (text: string, word: string) => text.split(word).length - 1;
const shows =
  (...words: string[]) =>
  (picture: string) =>
    words.every((word) => picture.includes(word));

/** The shell is back on its own screen, shows its cursor, echoes what is typed, and knows the exit code. */
async function expectCleanTerminal(code: number): Promise<string> {
  const exit = await afterIt('echo exit=$?');
  expect(exit).toContain(`exit=${code}`);
  expect(await terminal.mode()).toEqual({ otherScreen: false, cursor: true });
  const settings = await afterIt('stty -a');
  for (const setting of ['icanon', 'isig', 'echo', 'opost'])
    expect(settings).toMatch(new RegExp(`(^|\\s)${setting}(\\s|;|$)`, 'm'));
  return exit;
}

/** Waits for the prompt, types a line, and gives the picture once the next prompt is there. */
async function afterIt(line: string): Promise<string> {
  await terminal.until((picture) => picture.trimEnd().endsWith('ready>'));
  await terminal.type(line);
  return terminal.until((picture) => picture.includes(line) && picture.trimEnd().endsWith('ready>'));
}

describe('the live view', () => {
  it('draws phase, bar, rates and time left, in place', async () => {
    await migration('move-db', under(10));
    await terminal.type('kubectl nasmig watch move-db');
    const first = await terminal.until(shows('10 %', 'q or Ctrl-C ends this view'));
    expect(first).toContain('move-db   VM db   Migrating   accelerated   node-1 → node-2');
    expect(first).toMatch(/\[█+░+\] {2}10 % {3}pass 1 {3}2\.0 s left/);
    expect(await terminal.mode()).toEqual({ otherScreen: true, cursor: false });
    await change('move-db', under(55));
    const second = await terminal.until(shows('55 %'));
    // 45 MiB more on the link, 900 MiB more from the NAS, in the 10 s between the two reports.
    expect(second).toContain('guest memory 210.0 MiB/s   link 4.5 MiB/s   NAS 90.0 MiB/s');
    expect(times(second, 'move-db   VM db')).toBe(1);
    expect(second).not.toContain('10 %');
    // The clock in the first line goes on when nothing changes.
    const [line = ''] = second.split('\n');
    await terminal.until((picture) => !picture.includes(line.trimEnd()));
    await terminal.keys('C-c');
    const left = await expectCleanTerminal(130);
    // What was shown last stays, once.
    expect(times(left, 'move-db   VM db')).toBe(1);
    expect(left).toContain('55 %');
  });

  it('fits the window whenever its size changes', async () => {
    await migration('move-db', under(40));
    await terminal.type('kubectl nasmig watch');
    const barOf = (picture: string) => /\[([█░]+)\]/.exec(picture)?.[1]?.length ?? 0;
    const wide = await terminal.until(shows('40 %', 'q or Ctrl-C'));
    expect(barOf(wide)).toBe(60);
    await terminal.resize(60, 10);
    const narrow = await terminal.until(
      (picture) => barOf(picture) > 0 && barOf(picture) < 40 && picture.includes('q or Ctrl-C'),
    );
    expect(narrow.split('\n')[0]).toContain('kubectl nasmig watch');
    expect(times(narrow, 'VM db')).toBe(1);
    for (const line of narrow.split('\n')) expect([...line].length).toBeLessThanOrEqual(60);
    await terminal.resize(20, 4);
    const tiny = await terminal.until(
      (picture) =>
        picture.split('\n').every((line) => [...line].length <= 20) &&
        picture.includes('kubectl nasmig watch'),
    );
    expect(tiny.trimEnd().split('\n').length).toBeLessThanOrEqual(4);
    await terminal.resize(120, 30);
    await terminal.until((picture) => barOf(picture) === 60 && picture.includes('q or Ctrl-C'));
    await terminal.keys('q');
    await expectCleanTerminal(0);
  });

  it('shows several, those under way first, and counts what does not fit', async () => {
    await migration('done', over('Succeeded') as NasAwareMigrationStatus, 'old');
    for (const name of ['a', 'b', 'c', 'd', 'e', 'f']) await migration(`move-${name}`, under(30), name);
    await terminal.type('kubectl nasmig watch -A');
    const picture = await terminal.until(shows('6 under way', 'more: make the terminal taller'));
    expect(picture).toContain('default/move-');
    expect(picture).not.toContain('default/done');
    await terminal.resize(100, 60);
    const all = await terminal.until(shows('default/done', 'default/move-a', 'default/move-f'));
    expect(all.indexOf('default/done')).toBeGreaterThan(all.indexOf('default/move-a'));
    expect(all).toContain('pages: from the NAS 200000 (83 %, 781.3 MiB)');
    await terminal.keys('C-c');
    await expectCleanTerminal(130);
  });

  it('ends by itself with the migration, with its exit code and its result on the screen', async () => {
    await migration('move-db', under(90));
    await terminal.type('kubectl nasmig watch db');
    await terminal.until(shows('90 %'));
    await change('move-db', over('Succeeded'));
    const exit = await expectCleanTerminal(0);
    expect(exit).toContain('saved 858.3 MiB (90 %)');
    expect(exit).toContain('took 14.9 s   VM stopped 111 ms');
    await terminal.type('clear');
    await migration('move-web', under(90), 'web');
    await terminal.type('kubectl nasmig watch web');
    await terminal.until(shows('90 %'));
    await change('move-web', over('Failed'));
    expect(await expectCleanTerminal(8)).toContain('no room on the target');
  });

  it('leaves a clean terminal when it is killed, and when its time is over', async () => {
    await migration('move-db', under(20));
    await terminal.type('kubectl nasmig watch move-db');
    await terminal.until(shows('20 %'));
    // kubectl has become the plugin (exec): the shell's only child.
    await terminal.keys('C-z');
    await terminal.until(shows('Stopped'));
    await terminal.type('kill -TERM %1; fg');
    // What is typed before it has ended would go to it.
    await terminal.until((picture) => /kill -TERM[\s\S]*\nready>$/.test(picture.trimEnd()));
    await expectCleanTerminal(130);
    await terminal.type('clear; kubectl nasmig watch move-db --timeout 3s');
    await terminal.until(shows('20 %'));
    expect(await expectCleanTerminal(9)).toContain('not over after 3s');
  });

  it('stops with Ctrl-Z and goes on with fg', async () => {
    await migration('move-db', under(20));
    await terminal.type('kubectl nasmig watch move-db');
    await terminal.until(shows('20 %'));
    await terminal.keys('C-z');
    await terminal.until(shows('Stopped'));
    expect(await terminal.mode()).toEqual({ otherScreen: false, cursor: true });
    expect(await afterIt('echo typed')).toContain('typed');
    await change('move-db', under(60));
    await terminal.type('fg');
    await terminal.until(shows('60 %', 'q or Ctrl-C'));
    expect(await terminal.mode()).toEqual({ otherScreen: true, cursor: false });
    await terminal.keys('q');
    await expectCleanTerminal(0);
  });

  it('says that the API server is away, and goes on when it is back', async () => {
    await migration('move-db', under(20));
    await terminal.type('kubectl nasmig watch move-db');
    await terminal.until(shows('20 %'));
    await plane.stopApiServer('SIGKILL');
    await terminal.until(shows('The API server does not answer, trying again', '20 %'));
    await plane.restartApiServer();
    await change('move-db', under(70));
    await terminal.until(
      (picture) => picture.includes('70 %') && !picture.includes('does not answer'),
      60_000,
    );
    await terminal.keys('C-c');
    await expectCleanTerminal(130);
  }, 180_000);

  it('has colours on a terminal, and none with NO_COLOR', async () => {
    await migration('move-db', under(20));
    // biome-ignore lint/suspicious/noControlCharactersInRegex: ESC begins a colour code.
    const green = /\u001b\[(\d+;)*32m/;
    await terminal.type('kubectl nasmig watch move-db');
    await terminal.until(shows('20 %'));
    expect(await terminal.picture(true)).toMatch(green);
    await terminal.keys('q');
    await terminal.until(shows('ready>'));
    await terminal.type('clear');
    await terminal.until((picture) => picture.trim() === 'ready>');
    await terminal.type('NO_COLOR=1 kubectl nasmig watch move-db');
    await terminal.until(shows('20 %', 'q or Ctrl-C'));
    expect(await terminal.picture(true)).not.toContain('\u001b[');
    await terminal.keys('q');
    await expectCleanTerminal(0);
    // On a terminal, but asked for lines.
    await terminal.type('clear; kubectl nasmig watch move-db --lines');
    await terminal.until(shows('move-db vmi=db phase=Migrating accelerated=Yes percent=20'));
    expect(await terminal.mode()).toEqual({ otherScreen: false, cursor: true });
    await terminal.keys('C-c');
    await expectCleanTerminal(130);
  });

  it('is what migrate --watch shows; Ctrl-C ends the view, not the migration', async () => {
    await api.create(resources.virtualMachineInstances, {
      apiVersion: 'kubevirt.io/v1',
      kind: 'VirtualMachineInstance',
      metadata: { namespace: NAMESPACE, name: 'db' },
      spec: { volumes: [] },
      status: { phase: 'Running' },
    } as KubernetesObject);
    await terminal.type('kubectl nasmig migrate db --name move-db --watch');
    await terminal.until(shows('move-db   VM db   Pending', 'waiting for the operator to take it up'));
    await change('move-db', under(33));
    await terminal.until(shows('33 %'));
    await terminal.keys('C-c');
    await expectCleanTerminal(130);
    const left = await api.get<KubernetesObject & { status?: object }>(
      resources.nasAwareMigrations,
      NAMESPACE,
      'move-db',
    );
    expect(left.metadata).not.toHaveProperty('deletionTimestamp');
  });
});
