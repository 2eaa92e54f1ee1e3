// Every parser that reads from outside: where its target is, which modules' branches count, which recordings it begins with, and
// the bugs that the fuzzer's own test plants in it.

/** Where file names of this catalogue begin. */
export const ROOT: URL = new URL('../../', import.meta.url);

/** One change of one module that makes it wrong. */
export interface PlantedBug {
  /** What somebody could have forgotten. */
  readonly what: string;
  readonly file: string;
  /** Text that is in the module exactly once … */
  readonly instead: string;
  /** … and what stands there with the bug. */
  readonly of: string;
}

export interface CatalogueEntry {
  /** File in targets/, and what it exports. */
  readonly module: string;
  readonly target: string;
  readonly files: readonly string[];
  /** Folder of the corpus. */
  readonly corpus?: string;
  readonly bugs: readonly PlantedBug[];
}

const FRAME_READER = 'sidecar/link/frame-reader.ts';
const HELLO = 'sidecar/link/hello.ts';

export const CATALOGUE: Readonly<Record<string, CatalogueEntry>> = {
  'qemu-main': {
    module: 'qemu-streams',
    target: 'qemuMain',
    corpus: 'qemu-main',
    files: [
      'sidecar/stream/main-channel.ts',
      'sidecar/stream/section-bodies.ts',
      'sidecar/stream/item-reader.ts',
      'sidecar/stream/ram-blocks.ts',
      'sidecar/stream/connection-kind.ts',
      'sidecar/source/stream-batcher.ts',
    ],
    bugs: [
      {
        what: 'a page number past the end of its RAMBlock is told',
        file: 'sidecar/stream/main-channel.ts',
        instead: 'if (this.#page >= block.pageCount) {',
        of: 'if (this.#page > block.pageCount + 2 ** 31) {',
      },
      {
        what: 'a header that a cut divides is put together wrongly',
        file: 'sidecar/stream/item-reader.ts',
        instead: 'const count = Math.min(need - this.#held, end - at);',
        of: 'const count = Math.min(need, end - at);',
      },
      {
        what: 'a negative length makes it go round for ever',
        file: 'sidecar/stream/item-reader.ts',
        instead: 'const count = Math.min(this.#skip, end - at);',
        of: 'const count = Math.min(this.#skip, end - at) & ~0x1000;',
      },
      {
        what: 'a batch loses the beginning of a page that is still to come',
        file: 'sidecar/source/stream-batcher.ts',
        instead: 'this.#base += length;',
        of: 'this.#base += length + 1;',
      },
    ],
  },
  'qemu-multifd': {
    module: 'qemu-streams',
    target: 'qemuMultifd',
    corpus: 'qemu-multifd',
    files: [
      'sidecar/stream/multifd-channel.ts',
      'sidecar/stream/item-reader.ts',
      'sidecar/stream/ram-blocks.ts',
      'sidecar/stream/connection-kind.ts',
      'sidecar/source/stream-batcher.ts',
    ],
    bugs: [
      {
        what: 'more pages in a packet than it has room for',
        file: 'sidecar/stream/multifd-channel.ts',
        instead: 'if (count > MAX_PAGES)',
        of: 'if (count > 2 * MAX_PAGES)',
      },
      {
        what: 'an offset outside its RAMBlock',
        file: 'sidecar/stream/multifd-channel.ts',
        instead: '(isSizeKnown && page >= block.pageCount)',
        of: '(isSizeKnown && page >= 2 ** 40)',
      },
    ],
  },
  'link-at-target': {
    module: 'link-frames',
    target: 'linkAtTarget',
    corpus: 'link-at-target',
    files: [
      FRAME_READER,
      HELLO,
      'sidecar/link/batch-decoder.ts',
      'sidecar/link/patch-body.ts',
      'sidecar/link/varint.ts',
      'sidecar/link/compression.ts',
      'sidecar/link/byte-copy.ts',
    ],
    bugs: [
      {
        what: 'an announced length that no frame may have is believed',
        file: FRAME_READER,
        instead: 'if (bodyBytes > rule.maxBytes) throw',
        of: 'if (bodyBytes > 2 ** 28) throw',
      },
      {
        what: 'blocks past the end of a volume are referenced',
        file: 'sidecar/link/batch-decoder.ts',
        instead: 'firstBlock + count > blocks',
        of: 'firstBlock + count > blocks + 2 ** 20',
      },
      {
        what: 'a batch comes a second time',
        file: FRAME_READER,
        instead: 'if (frame.number !== this.#nextBatch) {',
        of: 'if (frame.number > this.#nextBatch) {',
      },
      {
        what: 'a patch for a page that the batch does not have',
        file: 'sidecar/link/patch-body.ts',
        instead: 'if (page >= batch.pageCount)',
        of: 'if (page > batch.pageCount + 64)',
      },
    ],
  },
  'link-at-source': {
    module: 'link-frames',
    target: 'linkAtSource',
    corpus: 'link-at-source',
    files: [FRAME_READER, HELLO, 'sidecar/link/page-digest.ts'],
    bugs: [
      {
        what: 'the credit may fall',
        file: FRAME_READER,
        instead: 'if (creditLimit < this.#creditLimit) {',
        of: 'if (creditLimit < 0) {',
      },
      {
        what: 'a bitmap that is shorter than its pages',
        file: FRAME_READER,
        instead: 'if (body.length !== missingAt + missingBytes) throw',
        of: 'if (body.length < missingAt) throw',
      },
    ],
  },
  hello: {
    module: 'hello',
    target: 'helloBody',
    corpus: 'link-at-target',
    files: [HELLO],
    bugs: [
      {
        what: 'a volume of more blocks than 32 bits can count',
        file: HELLO,
        instead: 'if (sizeBytes > MAX_VOLUME_BYTES) throw',
        of: 'if (sizeBytes < 0) throw',
      },
      {
        what: 'a wrong proof is believed',
        file: HELLO,
        instead: 'if (!timingSafeEqual(proofOf(proofKey, sourceBody, unproved), hello.proof)) {',
        of: 'if (proofOf(proofKey, sourceBody, unproved)[0] !== hello.proof[0]) {',
      },
      {
        what: 'frames in a version that the peer does not speak',
        file: HELLO,
        instead: 'return highest >= Math.max(one.min, other.min) ? highest : 0;',
        of: 'return highest;',
      },
    ],
  },
  'control-from-sidecar': {
    module: 'control-messages',
    target: 'controlFromSidecar',
    corpus: 'control-from-sidecar',
    files: ['control/codec.ts', 'control/messages.ts', 'control/coordination.ts', 'control/errors.ts'],
    bugs: [
      {
        what: 'an error without a name for what is not JSON',
        file: 'control/codec.ts',
        instead: "throw new ControlMessageError(direction, 'not JSON');",
        of: "throw new SyntaxError('not JSON');",
      },
      {
        what: 'GO although the target is not armed',
        file: 'control/coordination.ts',
        instead: "if (state.source.phase !== 'holding' || state.target.phase !== 'armed')",
        of: "if (state.source.phase !== 'holding')",
      },
    ],
  },
  'control-from-hub': {
    module: 'control-messages',
    target: 'controlFromHub',
    corpus: 'control-from-hub',
    files: ['control/codec.ts', 'control/messages.ts', 'control/sidecar-arming.ts', 'control/errors.ts'],
    bugs: [
      {
        what: 'an old order is followed',
        file: 'control/sidecar-arming.ts',
        instead: "if (go.epoch < highestEpoch || !('order' in state) || state.order.role !== 'source')",
        of: "if (!('order' in state) || state.order.role !== 'source')",
      },
      {
        what: 'the session key is in the message of an error',
        file: 'control/codec.ts',
        instead: "issue?.code ?? 'invalid'",
        of: 'JSON.stringify(value).slice(0, 900)',
      },
    ],
  },
  'index-file': {
    module: 'index-file',
    target: 'indexFile',
    files: ['sidecar/index/index-file.ts', 'sidecar/index/block-index.ts'],
    bugs: [
      {
        what: 'a block that no volume has',
        file: 'sidecar/index/index-file.ts',
        instead: 'if (hash < previous || place >= index.places)',
        of: 'if (hash < previous)',
      },
      {
        what: 'a wrong checksum is believed',
        file: 'sidecar/index/index-file.ts',
        instead: '|| !sum.digest().equals(trailer.subarray(COUNT_BYTES))',
        of: '',
      },
    ],
  },
  'sidecar-environment': {
    module: 'configuration',
    target: 'sidecarEnvironment',
    files: ['sidecar/agent/agent-config.ts', 'sidecar/agent/socket-directory-path.ts'],
    bugs: [
      {
        what: 'a number that is none',
        file: 'sidecar/agent/agent-config.ts',
        instead: 'z.coerce.number().int().min(least)',
        of: 'z.coerce.number()',
      },
    ],
  },
  'operator-environment': {
    module: 'configuration',
    target: 'operatorEnvironment',
    files: ['operator/settings.ts'],
    bugs: [
      {
        what: 'a port that is none',
        file: 'operator/settings.ts',
        instead: 'const port = z.coerce.number().int().min(0).max(65_535);',
        of: 'const port = z.coerce.number();',
      },
    ],
  },
  'standalone-configuration': {
    module: 'configuration',
    target: 'standaloneConfiguration',
    files: ['sidecar/standalone-config.ts'],
    bugs: [
      {
        what: 'a key that is too short',
        file: 'sidecar/standalone-config.ts',
        instead: '{64}$/i',
        of: '{62,64}$/i',
      },
    ],
  },
  'socket-names': {
    module: 'configuration',
    target: 'socketNamesTarget',
    files: ['sidecar/interposer/socket-names.ts', 'sidecar/interposer/errors.ts'],
    bugs: [
      {
        what: 'a name that is a path',
        file: 'sidecar/interposer/socket-names.ts',
        instead: '-[0-9a-f]{12}$/;',
        of: '-[0-9a-f]{12}/;',
      },
    ],
  },
  'admission-review': {
    module: 'kubernetes-objects',
    target: 'admissionReview',
    files: ['operator/injection/admission.ts', 'operator/injection/sidecar-patch.ts'],
    bugs: [
      {
        what: 'a pod of an unexpected shape throws',
        file: 'operator/injection/admission.ts',
        instead: "return { answer: answerTo(review.request.uid), decision: 'MalformedPod' };",
        of: "throw new TypeError('not a pod');",
      },
    ],
  },
  'kubevirt-object': {
    module: 'kubernetes-objects',
    target: 'kubevirtObject',
    files: ['operator/kubevirt/objects.ts'],
    bugs: [
      {
        what: 'an object of an unexpected shape throws',
        file: 'operator/kubevirt/objects.ts',
        instead: 'const parsed = checked(vmimSchema, withStatus(object));',
        of: 'const parsed = { success: true as const, data: vmimSchema.parse(withStatus(object)) };',
      },
    ],
  },
};
