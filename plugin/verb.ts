// What a verb is, and what it gets: the cluster, the flags, somewhere to write, the time, and a signal that ends it.
import type { ClusterClient } from './cluster/cluster-client.ts';
import type { Flag, Flags } from './command-line.ts';
import type { Exit } from './exit-codes.ts';
import type { OutputFormat } from './global-flags.ts';
import type { Palette, Signs } from './output/colours.ts';

/** What words of a verb are names of, for completion. */
export type Completes = 'vmis' | 'migrations' | 'unfinished' | 'policies' | 'shells';

export interface Verb {
  readonly name: string;
  /** One line, for the list of verbs. */
  readonly summary: string;
  /** A few sentences, for the verb's own usage text. */
  readonly description: string;
  /** How its words are written, for example `VMI`, `[NAME...]`. */
  readonly words: string;
  readonly minWords: number;
  readonly maxWords: number;
  readonly flags: readonly Flag[];
  /** Values of -o that make sense here. */
  readonly outputs: readonly OutputFormat[];
  /** Global flags that mean nothing here, and are refused. */
  readonly without?: readonly string[];
  readonly examples: readonly string[];
  readonly completes?: readonly Completes[];
  run(context: VerbContext): Promise<Exit>;
}

export interface Terminal {
  /** Standard output. */
  write(text: string): void;
  /** Standard error: what is not the answer. */
  note(text: string): void;
  /** Standard output is one. */
  readonly isTerminal: boolean;
  readonly palette: Palette;
  readonly signs: Signs;
}

export interface VerbContext {
  /** Connects at the first use; throws what {@link accessFrom} throws. */
  readonly api: ClusterClient;
  /** Where to look: undefined is all namespaces. */
  readonly namespace: string | undefined;
  /** Where objects are made, and looked for by name. */
  readonly defaultNamespace: string;
  readonly flags: Flags;
  readonly words: readonly string[];
  readonly output: OutputFormat | undefined;
  readonly terminal: Terminal;
  readonly environment: NodeJS.ProcessEnv;
  /** Milliseconds since 1970. */
  now(): number;
  /** Aborted by Ctrl-C. */
  readonly interrupted: AbortSignal;
}
