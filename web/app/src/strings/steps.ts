/** What each step of a verification means, as `mitai verify --explain` says it; by step, or by TEE and step. */
import { type Language, language } from "../i18n.ts";

type Explanation = readonly [name: string, en: string, zh: string]; // the step's name in Chinese, then what it means

const STEPS: Readonly<Record<string, Explanation>> = {
  nonce: [
    "随机数",
    "Your browser chose 32 random bytes, and this evidence was made for them: it is not an older one shown again.",
    "您的浏览器选取了 32 个随机字节，证据正是为它们生成的，而不是重放旧的证据。",
  ],
  "report data": [
    "报告数据",
    "The hardware signed a digest of the random bytes and the claims: the keys in them are this machine's.",
    "硬件签署了随机数与声明的摘要：其中的密钥属于这台机器。",
  ],
  claims: [
    "声明",
    "The process says which model, policies and ledger it works with; the policy may demand some.",
    "程序说明它使用哪个模型、哪些策略和哪个账本；您的策略可以对此提出要求。",
  ],
  workload: [
    "程序",
    "The measured code is exactly a build that the policy lists.",
    "度量到的代码正是策略所列的某个版本。",
  ],
  devices: [
    "设备",
    "The processor's signature covers the digest of this list: nobody put another GPU's report in.",
    "处理器的签名涵盖设备列表的摘要：没有人能放入其他 GPU 的报告。",
  ],
  quote: [
    "引证",
    "The evidence is a well-formed Intel quote, to its last byte.",
    "证据是格式完全正确的 Intel 引证，直到最后一个字节。",
  ],
  root: [
    "根证书",
    "The quote's certificates end in the root key of Intel, or in a simulated one that the policy allows.",
    "引证的证书链止于 Intel 的根密钥，或策略允许的模拟根密钥。",
  ],
  collateral: [
    "厂商数据",
    "What Intel says of this kind of platform (security level, revocations) is signed and current.",
    "Intel 关于这类平台的说明（安全级别、吊销信息）有签名且未过期。",
  ],
  "tdx platform": [
    "平台",
    "Intel certified the key of this very processor, and has not revoked it.",
    "Intel 认证了这颗处理器的密钥，且未将其吊销。",
  ],
  "sgx platform": [
    "平台",
    "Intel certified the key of this very processor, and has not revoked it.",
    "Intel 认证了这颗处理器的密钥，且未将其吊销。",
  ],
  signatures: [
    "签名",
    "Processor key → quoting enclave → attestation key → quote: each vouches for the next.",
    "处理器密钥 → 引证飞地 → 证明密钥 → 引证：逐级担保。",
  ],
  "quoting enclave": [
    "引证飞地",
    "The enclave that signs quotes on this machine is Intel's, at a version that Intel accepts.",
    "这台机器上签署引证的飞地出自 Intel，且版本为 Intel 所接受。",
  ],
  "tdx tcb": [
    "安全级别",
    "Microcode, firmware and TDX module are as recent as the policy demands; known open flaws are named.",
    "微码、固件和 TDX 模块达到策略要求的版本；已知未修复的漏洞会列出。",
  ],
  "sgx tcb": [
    "安全级别",
    "Microcode and firmware are as recent as the policy demands; known open flaws are named.",
    "微码和固件达到策略要求的版本；已知未修复的漏洞会列出。",
  ],
  td: [
    "可信域",
    "The guest is not in debug mode, can't be migrated, and has only features that the policy allows.",
    "客户机未处于调试模式、不可迁移，且只启用了策略允许的功能。",
  ],
  enclave: [
    "飞地",
    "The enclave is not in debug mode and is one that the policy allows.",
    "飞地未处于调试模式，且为策略所允许。",
  ],
  "event log": [
    "事件日志",
    "The list of what was measured during boot adds up to registers that the hardware signed.",
    "启动过程的度量清单与硬件签署的寄存器相符。",
  ],
  "snp report": [
    "报告",
    "The evidence is a well-formed AMD report, asked for by the guest, signed by a key of AMD's.",
    "证据是格式正确的 AMD 报告，由客户机请求，由 AMD 的密钥签署。",
  ],
  endorsement: [
    "背书",
    "AMD certified that key, up to its pinned root, and has not revoked what is between.",
    "AMD 认证了该密钥，直至固定的根证书，中间证书均未吊销。",
  ],
  "snp signature": [
    "签名",
    "The key signed the report: no byte was changed.",
    "该密钥签署了报告：没有任何字节被改动。",
  ],
  "snp binding": [
    "绑定",
    "The certificate is of the product, the chip and the firmware versions that the report names.",
    "证书对应报告所述的产品、芯片和固件版本。",
  ],
  "snp tcb": [
    "安全级别",
    "Boot loader, firmware and microcode are as recent as the policy demands, and can't be rolled back.",
    "引导程序、固件和微码达到策略要求的版本，且无法回退。",
  ],
  guest: [
    "客户机",
    "The guest is not in debug mode, can't be migrated, and has a privilege level that the policy allows.",
    "客户机未处于调试模式、不可迁移，特权级别为策略所允许。",
  ],
  "snp platform": [
    "平台",
    "How the host is configured (hyper-threading, memory encryption …) is as the policy demands.",
    "主机的配置（超线程、内存加密等）符合策略要求。",
  ],
};

const nameOf = (step: string): string => step.replace(/^\d+ /, "");

function find(tee: string, step: string): Explanation | undefined {
  const keys = [`${tee} ${nameOf(step)}`, nameOf(step)];
  return keys.map((key) => (Object.hasOwn(STEPS, key) ? STEPS[key] : undefined)).find((found) => found !== undefined);
}

/** The step's name for people. */
export function stepName(tee: string, step: string, shown: Language = language()): string {
  const name = nameOf(step);
  if (shown === "zh") return find(tee, step)?.[0] ?? name;
  return name.charAt(0).toUpperCase() + name.slice(1);
}

/** What the step means; nothing if unknown. */
export function explain(tee: string, step: string): string {
  return find(tee, step)?.[language() === "zh" ? 2 : 1] ?? "";
}
