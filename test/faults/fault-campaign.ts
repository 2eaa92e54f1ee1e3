// A row of fault runs on one lab, which is thrown away and made anew when a run leaves it in a state in which the next could not
// be trusted. Counts what the report wants, and keeps every run.

import type { FaultSummary } from '../report/lab-report.ts';
import type { PlannedFault } from './fault-plan.ts';
import { FaultLab, type FaultRun } from './fault-run.ts';

export interface CampaignOptions {
  readonly seed: number;
  readonly say: (line: string) => void;
  /** Where a lab's logs go when a run found something. */
  readonly keepLogsIn?: string;
}

/** A lab is made anew after so many runs: pods have numbers, and logs grow. */
const RUNS_PER_LAB = 40;

export class FaultCampaign {
  readonly runs: FaultRun[] = [];
  /** Runs that could not be made: the lab failed, or the phase was missed too often. */
  readonly broken: string[] = [];
  readonly #options: CampaignOptions;
  #lab: FaultLab | undefined;
  #runsOfLab = 0;
  #labs = 0;

  constructor(options: CampaignOptions) {
    this.#options = options;
  }

  /** One run; never throws for what it finds. */
  async run(planned: PlannedFault): Promise<FaultRun | undefined> {
    const name = `${planned.number}: ${planned.fault} in ${planned.phase}, ${planned.channels} channels`;
    try {
      this.#lab ??= await this.#newLab();
      this.#runsOfLab += 1;
      // A phase in which nothing is framed cannot show that acceleration is possible again.
      if (planned.phase === 'arming' && this.#lab.accelerationUnproven) await this.#prove(this.#lab);
      const run = await this.#lab.run(planned);
      this.runs.push(run);
      const { outcome, problems, framedInFlight, elapsedMs, verdict } = run;
      this.#options.say(
        `${problems.length === 0 ? 'ok ' : 'BAD'} ${name}: ${outcome}, ran nowhere for ${(verdict.outageMs / 1000).toFixed(1)} s` +
          `${framedInFlight ? ', batches in flight' : ''}, ${(elapsedMs / 1000).toFixed(0)} s` +
          `${problems.length === 0 ? '' : `: ${problems.join('; ')}`}`,
      );
      if (problems.length > 0 || this.#runsOfLab >= RUNS_PER_LAB) await this.#endLab(problems.length > 0);
      return run;
    } catch (error) {
      this.broken.push(`${name}: ${error instanceof Error ? error.message : String(error)}`);
      this.#options.say(`BROKEN ${this.broken.at(-1)}`);
      await this.#endLab(true);
      return undefined;
    }
  }

  get summary(): FaultSummary {
    const count = (matches: (run: FaultRun) => boolean): number => this.runs.filter(matches).length;
    return {
      runs: this.runs.length,
      vmLost: count(({ verdict }) => verdict.lost),
      vmTwice: count(({ verdict }) => verdict.twice),
      wrongMemory: count(({ verdict, selfCheck }) => verdict.wrongMemory || selfCheck === 'failed'),
      stuck: count(({ verdict }) => verdict.stuck),
      unexpected: count(
        ({ outcome, expected, problems }) => !expected.includes(outcome) || problems.length > 0,
      ),
      framedInFlight: count(({ framedInFlight }) => framedInFlight),
      seed: this.#options.seed,
    };
  }

  /** Runs of each phase. */
  get phases(): Readonly<Record<string, number>> {
    const counts: Record<string, number> = {};
    for (const { phase } of this.runs) counts[phase] = (counts[phase] ?? 0) + 1;
    return counts;
  }

  /** The last plain migration is followed by an accelerated one too. */
  async close(): Promise<void> {
    const lab = this.#lab;
    if (lab?.accelerationUnproven) {
      await this.#prove(lab).catch((error: Error) => this.broken.push(`at the end: ${error.message}`));
    }
    await this.#endLab(false);
  }

  async #prove(lab: FaultLab): Promise<void> {
    const outcome = await lab.proveAcceleration();
    if (outcome !== 'accelerated')
      throw new Error(`an accelerated migration was ${outcome ?? 'told nothing of'}`);
  }

  async #newLab(): Promise<FaultLab> {
    this.#runsOfLab = 0;
    this.#labs += 1;
    return FaultLab.start();
  }

  async #endLab(keepLogs: boolean): Promise<void> {
    const lab = this.#lab;
    this.#lab = undefined;
    const { keepLogsIn } = this.#options;
    await lab?.close(keepLogs && keepLogsIn !== undefined ? `${keepLogsIn}/lab-${this.#labs}` : undefined);
  }
}
