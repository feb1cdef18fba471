/**
 * The public part of a model: a Hugging Face `config.json`, read strictly where it says what is computed.
 *
 * Members that have no influence on inference are ignored; one that asks for a function that is not here is refused. Port
 * of `mitai.mpc.models.config`.
 */
import { MitaiError } from "@mitai/verify";
import {
  bigint,
  boolean,
  type Decoded,
  type Decoder,
  decodeJson,
  integer,
  JsonObject,
  nullable,
  oneOf,
  optional,
  string,
  struct,
} from "@mitai/verify/json";

const size = integer(1, 2 ** 20);
const approximation = oneOf("exact", "mpcformer");
const gelu = oneOf("gelu", "gelu_new", "gelu_pytorch_tanh");
const reaches: Decoder<bigint> = (value) => {
  if (![128n, 256n, 512n, 1024n].includes(bigint(value))) throw new RangeError("another reach");
  return bigint(value);
};

/** A number with or without a fraction. */
function real(least: number, most: number): Decoder<number> {
  return (value) => {
    const number = typeof value === "bigint" ? Number(value) : value;
    if (typeof number !== "number" || !(number >= least && number <= most)) throw new RangeError("no number in bounds");
    return number;
  };
}

const small = real(0, 1);
const factor = real(1, 1e9);
const family = { mpc_approx: optional(approximation, "exact"), mpc_reach: optional(reaches, 128n) };

const gpt2 = struct(
  {
    ...family,
    model_type: oneOf("gpt2"),
    vocab_size: optional(size, 50257),
    n_positions: optional(size, 1024),
    n_embd: optional(size, 768),
    n_layer: optional(size, 12),
    n_head: optional(size, 12),
    n_inner: optional(nullable(size), null),
    activation_function: optional(gelu, "gelu_new"),
    layer_norm_epsilon: optional(small, 1e-5),
    scale_attn_weights: optional(boolean, true),
    scale_attn_by_inverse_layer_idx: optional(boolean, false),
    add_cross_attention: optional(boolean, false),
    tie_word_embeddings: optional(boolean, true),
  },
  "ignored",
);

const rope = struct(
  {
    rope_type: optional(oneOf("default", "llama3"), "default"),
    rope_theta: optional(nullable(factor), null),
    factor: optional(factor, 1),
    low_freq_factor: optional(factor, 1),
    high_freq_factor: optional(factor, 4),
    original_max_position_embeddings: optional(size, 8192),
  },
  "ignored",
);

const llama = struct(
  {
    ...family,
    model_type: oneOf("llama", "qwen2"),
    vocab_size: optional(size, 32000),
    hidden_size: size,
    intermediate_size: size,
    num_hidden_layers: size,
    num_attention_heads: size,
    num_key_value_heads: optional(nullable(size), null),
    head_dim: optional(nullable(size), null),
    hidden_act: optional(oneOf("silu"), "silu"),
    rms_norm_eps: optional(small, 1e-6),
    rope_parameters: optional(nullable(rope), null),
    rope_scaling: optional(nullable(rope), null),
    rope_theta: optional(factor, 10000),
    attention_bias: optional(boolean, false),
    mlp_bias: optional(boolean, false),
    use_sliding_window: optional(boolean, false),
    tie_word_embeddings: optional(boolean, false),
  },
  "ignored",
);

export type Gpt2Config = Decoded<typeof gpt2>;
export type Rope = Decoded<typeof rope> & { readonly ropeTheta: number };
export type LlamaConfig = Decoded<typeof llama> & {
  /** Heads of keys and values, the length of one head's vectors, and how positions turn them. */
  readonly groups: number;
  readonly headSize: number;
  readonly rope: Rope;
};

const MALFORMED = ["mpc.model-unsupported", "the model's configuration is not usable"] as const;

/** The family of models that a configuration is of. */
export function familyOf(config: Uint8Array): string {
  const member = struct({ model_type: optional(string, "") }, "ignored");
  return decodeJson(config, member, "proof.model-unsupported", MALFORMED[1]).modelType;
}

export function parseGpt2(data: Uint8Array): Gpt2Config {
  const config = decodeJson(data, gpt2, ...MALFORMED);
  demand(config.nEmbd % config.nHead === 0, "heads that do not divide its width");
  demand(config.scaleAttnWeights, "attention without scaling");
  demand(!config.scaleAttnByInverseLayerIdx, "attention scaled by layer");
  demand(!config.addCrossAttention, "cross-attention");
  return config;
}

export function parseLlama(data: Uint8Array): LlamaConfig {
  const config = decodeJson(data, llama, ...MALFORMED);
  const groups = config.numKeyValueHeads ?? config.numAttentionHeads;
  const headSize = config.headDim ?? Math.floor(config.hiddenSize / config.numAttentionHeads);
  const own = config.ropeParameters ?? config.ropeScaling ?? rope(new JsonObject([]));
  demand(config.numAttentionHeads % groups === 0, "heads of queries that those of keys do not divide");
  demand(headSize > 0 && headSize % 2 === 0, "heads of odd size, or of none");
  demand(!config.mlpBias && !config.attentionBias, "biases that are not Qwen2's");
  demand(!config.useSlidingWindow, "a sliding window");
  demand(own.lowFreqFactor < own.highFreqFactor, "frequencies that are not in order");
  return { ...config, groups, headSize, rope: { ...own, ropeTheta: own.ropeTheta ?? config.ropeTheta } };
}

function demand(holds: boolean, what: string): void {
  if (!holds) throw new MitaiError("mpc.model-unsupported", `the model's configuration asks for ${what}`);
}
