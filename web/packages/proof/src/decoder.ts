/**
 * Models that generate, as integer programs: tokens in, the likeliest next tokens out (`mitai.proof.models`).
 *
 * Programs of answers read all tokens at once and keep nothing: that much of the Python package is here.
 */
import { activation, attention, dense, heads, mix, NORM_FRACTION, norm, stream } from "./blocks.ts";
import { familyOf, type Gpt2Config, type LlamaConfig, parseGpt2, parseLlama, type Rope } from "./config.ts";
import { refuse } from "./errors.ts";
import type { Graph, Tensor } from "./graph.ts";
import { angle, exp, log } from "./reproducible.ts";
import { NOISE_BITS, NOISE_FRACTION } from "./sampling.ts";

const LOGIT_BITS = 32;
const DRAWN_BITS = 8; // at least, of whole numbers: how far the least may lie below the one that is drawn
const WEIGHT_FRACTION = 16;
const ANGLE_BITS = 14;

/** A model of one public configuration. */
export interface Decoder {
  readonly vocabulary: number;
  readonly width: number;
  readonly tied: boolean;
  /** The last layer's states [n, width]. */
  states(table: Tensor, tokens: Tensor): Tensor;
  /** What goes into the head. */
  last(x: Tensor): Tensor;
}

/** Write the program of n tokens, after each of the last `answers` of which the next one comes out, likeliest or drawn. */
export function writeProgram(model: Decoder, graph: Graph, n: number, answers: number, drawn: boolean): void {
  const tokens = graph.tokens("tokens", n, model.vocabulary);
  const [fraction] = graph.place("logits", LOGIT_BITS, { most: 26 });
  const shape = [model.vocabulary, model.width];
  const table = graph.weight("table.weight", shape, model.tied ? fraction - NORM_FRACTION : WEIGHT_FRACTION);
  const states = model.states(table, tokens);
  const x = model.last(states.gather(graph.constant([answers], range(n - answers, n)), 0));
  const head = model.tied ? table : graph.weight("head.weight", shape, fraction - NORM_FRACTION);
  const logits = x.matmul(head.swap());
  graph.output("token", drawn ? draw(logits) : logits.argmax(LOGIT_BITS));
}

/** The token with the largest sum of logit and public noise. */
function draw(logits: Tensor): Tensor {
  const { graph } = logits;
  const total = logits.plus(graph.input("noise", logits.shape, NOISE_FRACTION, NOISE_BITS));
  return total.argmax(total.fraction + Math.max(graph.room("logits") + 1, DRAWN_BITS));
}

/** The model that a `config.json` describes. */
export function decoderOf(config: Uint8Array): Decoder {
  const family = familyOf(config);
  if (family === "gpt2") return new Gpt2(parseGpt2(config));
  if (family === "llama" || family === "qwen2") return new Llama(parseLlama(config));
  return refuse(
    "proof.model-unsupported",
    "answers of models of this family are not proven",
    "",
    "gpt2, llama and qwen2 are",
  );
}

/** GPT-2 (Radford et al., 2019): gain and bias of a norm are in the layer that follows. */
class Gpt2 implements Decoder {
  readonly vocabulary: number;
  readonly width: number;
  readonly tied: boolean;

  constructor(readonly config: Gpt2Config) {
    [this.vocabulary, this.width, this.tied] = [config.vocabSize, config.nEmbd, config.tieWordEmbeddings];
  }

  states(table: Tensor, tokens: Tensor): Tensor {
    const { config, width } = this;
    const { graph } = table;
    const eps = config.layerNormEpsilon;
    const one = [config.nHead, 1, width / config.nHead];
    const n = tokens.length(0);
    const positions = graph.weight("positions.weight", [config.nPositions, width], table.fraction);
    const most = stream(graph, ["embedding", ...added(config.nLayer, "mixed", "outer")], width);
    const at = graph.constant([n], range(0, n));
    let x = table.gather(tokens, 0).plus(positions.gather(at, 0)).rescale("embedding", most);
    for (let i = 0; i < config.nLayer; i++) {
      const layer = `layers.${i}`;
      const own = norm(x, `${layer}.first`, eps, { centred: true });
      const part = (name: string) => {
        const [fraction] = graph.place(`${layer}.${name}`);
        return heads(own, `${layer}.${name}`, one, fraction, true).rescale(`${layer}.${name}`);
      };
      const y = attention(part("query"), part("keys"), part("values"), layer);
      x = x.plus(mix(y, `${layer}.mixed`, width, { bias: true, stream: most }));
      const inner = dense(norm(x, `${layer}.second`, eps, { centred: true }), `${layer}.inner`, this.#inner, {
        bias: true,
      });
      const active = activation(inner, config.activationFunction);
      x = x.plus(dense(active, `${layer}.outer`, width, { bias: true, stream: most }));
    }
    return x;
  }

  last(x: Tensor): Tensor {
    return norm(x, "final", this.config.layerNormEpsilon, { centred: true, affine: true });
  }

  get #inner(): number {
    return this.config.nInner ?? 4 * this.width;
  }
}

/** Llama and Qwen2: rotary positions, grouped queries, gated inner layers. */
class Llama implements Decoder {
  readonly vocabulary: number;
  readonly width: number;
  readonly tied: boolean;

  constructor(readonly config: LlamaConfig) {
    [this.vocabulary, this.width, this.tied] = [config.vocabSize, config.hiddenSize, config.tieWordEmbeddings];
  }

  states(table: Tensor, tokens: Tensor): Tensor {
    const { config, width } = this;
    const { graph } = table;
    const [eps, inner] = [config.rmsNormEps, config.intermediateSize];
    const most = stream(graph, ["embedding", ...added(config.numHiddenLayers, "mixed", "down")], width);
    let x = table.gather(tokens, 0).rescale("embedding", most);
    const turns = turnsOf(config.rope, config.headSize, tokens.length(0));
    for (let i = 0; i < config.numHiddenLayers; i++) {
      const layer = `layers.${i}`;
      const y = this.#attended(norm(x, `${layer}.first`, eps), layer, turns);
      x = x.plus(mix(y, `${layer}.mixed`, width, { stream: most }));
      const own = norm(x, `${layer}.second`, eps);
      const gate = activation(dense(own, `${layer}.gate`, inner), config.hiddenAct);
      const gated = gate.times(dense(own, `${layer}.up`, inner));
      x = x.plus(dense(gated, `${layer}.down`, width, { stream: most }));
    }
    return x;
  }

  last(x: Tensor): Tensor {
    return norm(x, "final", this.config.rmsNormEps, { affine: true });
  }

  #attended(x: Tensor, layer: string, turns: Turns): Tensor {
    const { groups, headSize, numAttentionHeads, modelType } = this.config;
    const one = [groups, 1, headSize];
    const shared = [groups, numAttentionHeads / groups, headSize];
    const bias = modelType === "qwen2";
    const [fraction] = x.graph.place(`${layer}.values`);
    const turned = (name: string, shape: readonly number[]) =>
      turn(heads(x, name, shape, x.fraction, bias), turns).rescale(name);
    const queries = turned(`${layer}.query`, shared);
    const keys = turned(`${layer}.keys`, one);
    const values = heads(x, `${layer}.values`, one, fraction, bias).rescale(`${layer}.values`);
    return attention(queries, keys, values, layer);
  }
}

/** What layers add to the stream, by name. */
function added(layers: number, ...parts: readonly string[]): string[] {
  return Array.from({ length: layers }, (_, i) => parts.map((part) => `layers.${i}.${part}`)).flat();
}

/** Cosines and sines [n, size] of places. */
interface Turns {
  readonly cosines: Float64Array;
  readonly sines: Float64Array;
}

/** Those of the first n places (Su et al., "RoFormer", section 3.4); the same to the last bit everywhere. */
function turnsOf(rope: Rope, size: number, n: number): Turns {
  const base = log(rope.ropeTheta);
  let rates = Array.from({ length: size / 2 }, (_, i) => exp((-(2 * i) / size) * base));
  if (rope.ropeType === "llama3") {
    // slow turns are slowed down further, for contexts longer than those of training
    rates = rates.map((rate) => {
      const cycles = (rope.originalMaxPositionEmbeddings * rate) / (2 * Math.PI);
      const share = (cycles - rope.lowFreqFactor) / (rope.highFreqFactor - rope.lowFreqFactor);
      const within = Math.max(0, Math.min(1, share));
      return rate * (within + (1 - within) / rope.factor);
    });
  }
  const turns: Turns = { cosines: new Float64Array(n * size), sines: new Float64Array(n * size) };
  for (let at = 0; at < n * size; at++) {
    const rate = rates[(at % size) % rates.length] as number;
    const [cosine, sine] = angle((Math.floor(at / size) * rate) / (2 * Math.PI));
    turns.cosines[at] = cosine;
    turns.sines[at] = sine;
  }
  return turns;
}

/** Turn pairs of the last axis, (i, i + half), by public angles. */
function turn(x: Tensor, { cosines, sines }: Turns): Tensor {
  const { graph } = x;
  const size = x.length(-1);
  const half = size / 2;
  const rolled = Float64Array.from({ length: size }, (_, i) => (i + half) % size);
  const across = x.gather(graph.constant([size], rolled), -1);
  const signed = sines.map((sine, at) => (at % size < half ? -sine : sine));
  const shape = [cosines.length / size, size];
  const straight = x.times(graph.constant(shape, cosines, ANGLE_BITS));
  return straight.plus(across.times(graph.constant(shape, signed, ANGLE_BITS)));
}

/** The integers from `start` up to `end`, without it. */
function range(start: number, end: number): Float64Array {
  return Float64Array.from({ length: end - start }, (_, at) => start + at);
}
