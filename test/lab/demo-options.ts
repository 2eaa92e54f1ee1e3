// The options of both demos (between two QEMUs alone, and through the operator) as `make` gives them.

import { parseArgs } from 'node:util';
import { z } from 'zod';
import { GUEST_PROFILES, type GuestProfileName } from './guest-profiles.ts';

export const PROFILE_NAMES = Object.keys(GUEST_PROFILES) as [GuestProfileName, ...GuestProfileName[]];

/** What both demos take. */
export const DemoOptions = z.object({
  guest: z.enum(PROFILE_NAMES).default('warm'),
  /** Rates of migration and storage network in Mbit/s; 0: unlimited. */
  link: z.coerce.number().int().min(0).max(100_000).default(200),
  nas: z.coerce.number().int().min(0).max(100_000).default(2000),
  channels: z.coerce.number().int().min(0).max(64).default(8),
  qemu: z.enum(['bookworm', 'trixie', 'sid']).default('trixie'),
  /** QEMU's downtime limit in ms. */
  downtime: z.coerce.number().int().min(1).max(2_000_000).default(300),
  /** Directory to keep the logs of all processes in. */
  logs: z.string().optional(),
});
export type DemoOptions = z.infer<typeof DemoOptions>;

/** The command line by `schema`; ends the process with a message and `usage` when it does not fit. */
export function readDemoOptions<Shape extends z.ZodRawShape>(
  schema: z.ZodObject<Shape>,
  usage: string,
): z.infer<z.ZodObject<Shape>> {
  const names = Object.keys(schema.shape);
  try {
    const { values } = parseArgs({
      options: Object.fromEntries(names.map((name) => [name, { type: 'string' } as const])),
    });
    return schema.parse(values);
  } catch (error) {
    console.error(error instanceof z.ZodError ? z.prettifyError(error) : (error as Error).message);
    console.error(usage);
    process.exit(2);
  }
}

/** What will be shown, in a line. */
export function describeDemo(options: DemoOptions): string {
  const rate = (mbit: number): string => (mbit === 0 ? 'unlimited' : `${mbit} Mbit/s`);
  return (
    `Guest "${options.guest}" with ${GUEST_PROFILES[options.guest].memoryMiB} MiB, ${options.channels} multifd channels, ` +
    `migration network ${rate(options.link)}, storage network ${rate(options.nas)}`
  );
}
