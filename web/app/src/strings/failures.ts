/**
 * What went wrong, why, and what next, in plain words: by code of docs/errors.md, the longest beginning that fits. The
 * error's own (English) message is shown beside it as the technical detail.
 */
import { type Language, language } from "../i18n.ts";

export interface Plain {
  readonly what: string;
  readonly why: string;
  readonly next: string;
}

type Entry = Readonly<Record<Language, readonly [what: string, why: string, next: string]>>;

const FAILURES: Readonly<Record<string, Entry>> = {
  "attest.measurement-mismatch": {
    en: [
      "Another program runs there.",
      "The machine's measured code is none of the builds that your policy lists. Either it was changed, or a release is newer than your policy.",
      "Get the policy of the current release from its publisher. If there is none, do not use this machine.",
    ],
    zh: [
      "那里运行的是另一个程序。",
      "机器度量到的代码不是您的策略所列的任何版本。要么程序被改动过，要么发布的版本比您的策略新。",
      "请向发布者获取当前版本的策略。如果没有，请不要使用这台机器。",
    ],
  },
  "attest.simulation-refused": {
    en: [
      "The hardware is only simulated.",
      "Your policy accepts genuine hardware alone, and this machine has none.",
      "Do not use this machine for secrets. For a trial, use a policy that allows simulation.",
    ],
    zh: [
      "硬件只是模拟的。",
      "您的策略只接受真实硬件，而这台机器没有。",
      "不要把机密交给这台机器。如需试用，请使用允许模拟的策略。",
    ],
  },
  "attest.nonce-mismatch": {
    en: [
      "The evidence is not fresh.",
      "It answers another question than your browser asked: somebody shows an old or a foreign statement.",
      "Verify again. If it happens again, somebody between you and the machine interferes.",
    ],
    zh: [
      "证据不是新的。",
      "证据回应的不是您浏览器提出的问题：有人出示了旧的或别处的声明。",
      "请重新验证。如果再次出现，说明中间有人干扰。",
    ],
  },
  "attest.report-data-mismatch": {
    en: [
      "Somebody exchanged the key.",
      "The hardware's statement does not cover the key that was offered with it. Whoever offered it could have read your question.",
      "Do not use this address. Verify again from another network, and tell the operator.",
    ],
    zh: [
      "有人替换了密钥。",
      "硬件的声明没有涵盖随附的密钥。提供该密钥的人本可以读到您的问题。",
      "不要使用这个地址。请换一个网络重新验证，并告知运营者。",
    ],
  },
  "attest.workload-unknown": {
    en: [
      "Your policy does not know this program.",
      "The policy has no reference values for this program on this kind of hardware.",
      "Get a policy that covers this machine from its publisher, or use another machine.",
    ],
    zh: [
      "您的策略不认识这个程序。",
      "策略中没有这个程序在这类硬件上的参考值。",
      "请向发布者获取涵盖这台机器的策略，或使用其他机器。",
    ],
  },
  "attest.capsule": {
    en: [
      "It is not the model that you expect.",
      "Your policy demands a certain model, and the machine has another one open, or none.",
      "Wait if a model is just being deployed, then verify again. Else ask the operator.",
    ],
    zh: [
      "不是您预期的模型。",
      "您的策略要求特定的模型，而机器加载的是另一个，或尚未加载。",
      "如果模型正在部署，请稍候再验证；否则请询问运营者。",
    ],
  },
  "attest.ledger": {
    en: [
      "It writes to no ledger that you accept.",
      "Your policy names the ledger in which every answer must be recorded; this machine names another one, or none.",
      "A machine names its ledger once a model is deployed: verify again in a minute. Else ask the operator.",
    ],
    zh: [
      "它没有写入您所接受的账本。",
      "您的策略指定了记录每个回答的账本，而这台机器使用另一个账本，或没有账本。",
      "机器在部署模型后才会声明账本：请一分钟后重新验证，否则请询问运营者。",
    ],
  },
  "attest.release": {
    en: [
      "The signed release can't be used.",
      "What the page offers as a signed release of the program is not signed by the publisher that your policy trusts, or is out of date.",
      "Verify again later, or get a newer policy from the publisher.",
    ],
    zh: [
      "无法使用已签名的发布。",
      "页面提供的发布不是由您的策略所信任的发布者签名，或者已经过期。",
      "请稍后重新验证，或向发布者获取新的策略。",
    ],
  },
  "attest.policy": {
    en: [
      "The policy can't be used.",
      "It is not a valid policy file, or demands something that the machine does not have.",
      "Get the policy again from its publisher.",
    ],
    zh: ["无法使用该策略。", "它不是有效的策略文件，或者要求了机器不具备的内容。", "请向发布者重新获取策略。"],
  },
  "attest.tcb": {
    en: [
      "The machine's security level is too low.",
      "Its processor's firmware is older than your policy accepts, or has known flaws.",
      "Ask the operator for updates. Accepting less is your decision: it is written in the policy.",
    ],
    zh: [
      "机器的安全级别过低。",
      "处理器固件的版本低于策略的要求，或存在已知漏洞。",
      "请让运营者更新固件。是否放宽要求由您在策略中决定。",
    ],
  },
  "attest.advisory-refused": {
    en: [
      "The processor has known flaws.",
      "Its vendor published security advisories for this level of firmware, and your policy does not accept them.",
      "Ask the operator for updates. Accepting an advisory is your decision: it is written in the policy.",
    ],
    zh: [
      "处理器存在已知漏洞。",
      "厂商针对这一固件级别发布了安全公告，而您的策略不接受。",
      "请让运营者更新固件。是否接受某个公告由您在策略中决定。",
    ],
  },
  "attest.collateral": {
    en: [
      "The vendor's data about the processor is missing or out of date.",
      "Without current data nobody can tell whether the processor was revoked or has known flaws.",
      "Check this device's clock, then verify again. If it persists, the operator must fetch fresh data.",
    ],
    zh: [
      "缺少厂商关于处理器的数据，或数据已过期。",
      "没有最新数据，就无法判断处理器是否已被吊销或存在已知漏洞。",
      "请检查本设备的时钟，然后重新验证。如仍不行，需由运营者获取最新数据。",
    ],
  },
  attest: {
    en: [
      "The machine's evidence does not hold.",
      "One of the checks failed, so it is not known who would read your question.",
      "Verify again. If it fails again, do not use this machine, and tell its operator the code below.",
    ],
    zh: [
      "机器的证据不成立。",
      "有一项检查未通过，无法确定谁会读到您的问题。",
      "请重新验证。如果再次失败，请不要使用这台机器，并将下面的代码告知运营者。",
    ],
  },
  "client.simulated": {
    en: [
      "Now a simulated machine answers.",
      "The question was meant for genuine hardware. A simulated machine's owner would get to read it.",
      "Begin a new chat, and tell it nothing secret.",
    ],
    zh: [
      "现在应答的是模拟机器。",
      "问题是要发给真实硬件的，而模拟机器的主人会读到它。",
      "请开始新对话，且不要透露机密。",
    ],
  },
  "client.unreachable": {
    en: [
      "The machine can't be reached.",
      "The network is down, or the machine is switched off.",
      "Check your connection, then try again.",
    ],
    zh: ["无法连接到机器。", "网络中断，或机器已关机。", "请检查网络连接，然后重试。"],
  },
  "client.timeout": {
    en: [
      "The machine did not answer in time.",
      "It is reachable, but slow, or somebody holds its answers back. Nothing was sent.",
      "Try again in a moment. If it persists, ask the operator.",
    ],
    zh: [
      "机器没有及时响应。",
      "它可以连通，但响应缓慢，或者有人扣留了它的响应。没有发送任何内容。",
      "请稍后重试。如仍不行，请询问运营者。",
    ],
  },
  "client.no-evidence": {
    en: [
      "The machine shows no evidence.",
      "What answers at this address does not prove what it is. Nothing was sent.",
      "Check the address, and try again in a moment. If it persists, ask the operator.",
    ],
    zh: [
      "机器没有出示证据。",
      "该地址的响应方没有证明自己是什么。没有发送任何内容。",
      "请检查地址并稍后重试。如仍不行，请询问运营者。",
    ],
  },
  "client.other-workload": {
    en: [
      "It is another kind of machine.",
      "The machine is genuine, but it runs another part of the platform than the one that should answer here.",
      "Check the address. Nothing was sent.",
    ],
    zh: [
      "这是另一种机器。",
      "机器是真实的，但它运行的是平台的另一个部分，而不是应在此响应的部分。",
      "请检查地址。没有发送任何内容。",
    ],
  },
  "client.no-policy": {
    en: [
      "There is no policy to verify with.",
      "Without a policy that somebody you trust has named, no machine can be trusted.",
      "Ask the operator of this site for it.",
    ],
    zh: ["没有可用于验证的策略。", "没有您所信任的人指定的策略，任何机器都不可信。", "请向本网站的运营者索取策略。"],
  },
  "client.policy-mismatch": {
    en: [
      "The policy is not the one that was named.",
      "The policy that arrived has another digest: it was replaced, or renewed without changing the digest here.",
      "Ask the operator of this site.",
    ],
    zh: [
      "策略与指定的不符。",
      "收到的策略摘要不同：它被替换了，或者更新后没有在此更改摘要。",
      "请询问本网站的运营者。",
    ],
  },
  "client.answer": {
    en: [
      "The answer did not come to its end.",
      "The server stopped early, or sent something that is no answer.",
      "Ask again. What arrived until then did come from the verified machine.",
    ],
    zh: [
      "回答没有完整结束。",
      "服务器提前停止，或发送的内容不是回答。",
      "请重新提问。此前收到的内容确实来自通过验证的机器。",
    ],
  },
  "client.page": {
    en: [
      "The page's settings can't be read.",
      "The host delivers a damaged or foreign mitai.json beside this page.",
      "Reload the page. If it persists, tell the operator.",
    ],
    zh: [
      "无法读取页面设置。",
      "主机提供的 mitai.json 已损坏或不属于本页。",
      "请重新加载页面。如仍不行，请告知运营者。",
    ],
  },
  "client.receipt": {
    en: [
      "The receipt does not prove this answer.",
      "A receipt came, but a check of it failed.",
      "Keep the code below and tell the operator. Do not rely on this answer being recorded.",
    ],
    zh: ["回执不能证明这个回答。", "收到了回执，但核对未通过。", "请记下代码并告知运营者。不要认为这个回答已被记录。"],
  },
  "client.no-receipt": {
    en: [
      "No receipt came.",
      "The ledger did not take the receipt in time, or the machine gave none.",
      "The answer itself came from the verified machine. It has no place in the ledger that could be shown.",
    ],
    zh: [
      "没有收到回执。",
      "账本没有及时接收回执，或机器没有给出回执。",
      "回答本身来自通过验证的机器，但无法证明它已写入账本。",
    ],
  },
  "channel.truncated": {
    en: [
      "The answer was cut off on its way.",
      "The connection ended before the authenticated end of the answer.",
      "Do not rely on the part that arrived. Ask again.",
    ],
    zh: ["回答在途中被截断。", "连接在经认证的结尾之前中断。", "不要依赖已收到的部分，请重新提问。"],
  },
  "channel.keys-changed": {
    en: [
      "The machine changed its keys.",
      "It restarted, or another model was deployed.",
      "Verify again, then repeat the question.",
    ],
    zh: ["机器更换了密钥。", "机器已重启，或部署了另一个模型。", "请重新验证，然后再次提问。"],
  },
  "channel.replayed": {
    en: [
      "The request arrived twice.",
      "Somebody on the way sent your encrypted request again; the machine answered it at most once.",
      "Ask again.",
    ],
    zh: ["请求到达了两次。", "途中有人重发了您的加密请求；机器最多只回答一次。", "请重新提问。"],
  },
  "channel.date": {
    en: [
      "This device's clock and the machine's differ too much.",
      "Requests carry their time, so that nobody can send them again later.",
      "Set this device's clock, then ask again.",
    ],
    zh: ["本设备与机器的时钟相差过大。", "请求带有时间，以防日后被重发。", "请校准本设备的时钟，然后重新提问。"],
  },
  channel: {
    en: [
      "The encrypted connection failed.",
      "What arrived was not from the verified machine, or was damaged on the way.",
      "Ask again. If it persists, something between you and the machine interferes.",
    ],
    zh: [
      "加密连接失败。",
      "收到的内容不是来自通过验证的机器，或在途中损坏。",
      "请重新提问。如仍不行，说明中间有干扰。",
    ],
  },
  context_length_exceeded: {
    en: [
      "The conversation is too long for this model.",
      "Question, files and all earlier turns together exceed what the model can read at once.",
      "Begin a new chat, or attach less.",
    ],
    zh: [
      "对话超出了模型的长度。",
      "问题、文件和之前的全部内容加起来超过了模型一次能读取的长度。",
      "请开始新对话，或减少附件。",
    ],
  },
  "serve.no-model": {
    en: [
      "No model is ready.",
      "The machine was verified, but it has no model open yet, or is loading one.",
      "Wait a minute, then try again.",
    ],
    zh: ["没有可用的模型。", "机器已通过验证，但尚未加载模型，或正在加载。", "请等待一分钟，然后重试。"],
  },
  model_not_found: {
    en: [
      "The machine does not serve this model.",
      "Another model was deployed meanwhile.",
      "Choose a model from the list, then ask again.",
    ],
    zh: ["机器没有提供这个模型。", "期间已部署了另一个模型。", "请从列表中选择模型，然后重新提问。"],
  },
  serve: {
    en: ["The model could not answer.", "The verified machine reported an error.", "Wait a moment and ask again."],
    zh: ["模型未能回答。", "通过验证的机器报告了错误。", "请稍候再试。"],
  },
  ledger: {
    en: [
      "The ledger's proof does not hold.",
      "The entry, the proof or the ledger's signature is not what it should be.",
      "Keep the code below and tell the operator or an auditor.",
    ],
    zh: ["账本的证明不成立。", "条目、证明或账本签名与应有的不符。", "请记下下面的代码并告知运营者或审计者。"],
  },
  "store.passphrase-wrong": {
    en: [
      "This passphrase does not fit.",
      "It does not open the key of the conversations on this device.",
      "Try again. Without it the conversations can only be deleted.",
    ],
    zh: ["口令不对。", "它打不开本设备上对话的密钥。", "请重试。没有口令，这些对话只能删除。"],
  },
  "store.passkey": {
    en: [
      "The passkey did not open anything.",
      "It was refused or cancelled, it is another one, or this device's passkeys can't guard conversations.",
      "Try again, or use a passphrase.",
    ],
    zh: [
      "通行密钥未能打开。",
      "操作被拒绝或取消、密钥不是同一个，或本设备的通行密钥不支持保护对话。",
      "请重试，或使用口令。",
    ],
  },
  "store.full": {
    en: [
      "This device has no space left.",
      "The browser refused to keep the conversation. Nothing else was lost.",
      "Delete old conversations, or free space on the device.",
    ],
    zh: ["本设备空间不足。", "浏览器拒绝保存该对话，其他内容没有丢失。", "请删除旧对话，或清理设备空间。"],
  },
  "store.changed-elsewhere": {
    en: [
      "Another tab changed this.",
      "The same conversations are open in another tab or window of this browser.",
      "Look at what is shown now, then repeat what you did.",
    ],
    zh: [
      "另一个标签页作了更改。",
      "同样的对话也在此浏览器的其他标签页或窗口中打开。",
      "请查看现在的内容，然后重复刚才的操作。",
    ],
  },
  "store.record-damaged": {
    en: [
      "This conversation is damaged.",
      "What lies on the device is not what this page wrote.",
      "It can only be deleted. The others are not affected.",
    ],
    zh: ["这个对话已损坏。", "设备上的内容与本页写入的不一致。", "只能删除它，其他对话不受影响。"],
  },
  store: {
    en: [
      "Conversations on this device can't be read or kept.",
      "The browser refused its storage, or the key does not fit.",
      "Free some space or unlock again. You can go on without keeping anything.",
    ],
    zh: [
      "无法读取或保存本设备上的对话。",
      "浏览器拒绝存储，或密钥不匹配。",
      "请清理空间或重新解锁。您也可以不保存而继续使用。",
    ],
  },
  broker: {
    en: [
      "The key broker refused.",
      "It did not accept what was asked of it, or can't do it now. The technical details say more.",
      "Look at the state here before you try again: an order may have been carried out.",
    ],
    zh: [
      "密钥代理拒绝了请求。",
      "它没有接受所请求的内容，或暂时无法执行。详情见技术信息。",
      "重试之前请先查看这里的状态：命令可能已经执行。",
    ],
  },
  "broker.policy-invalid": {
    en: [
      "The broker does not understand this policy.",
      "It is not valid Cedar, or names facts that the broker does not know. Nothing was changed.",
      "The technical details name the place. Correct the text and sign it again.",
    ],
    zh: [
      "密钥代理不理解这份策略。",
      "它不是有效的 Cedar 策略，或引用了密钥代理不知道的事实。没有任何改动。",
      "技术信息中写明了位置。请更正后重新签名。",
    ],
  },
  "broker.stale": {
    en: [
      "The clocks differ.",
      "What you signed carries this device's time, and the broker's clock is more than five minutes away from it.",
      "Set this device's clock, then try again.",
    ],
    zh: [
      "时钟不一致。",
      "您签署的内容带有本设备的时间，与密钥代理的时钟相差超过五分钟。",
      "请校准本设备的时钟，然后重试。",
    ],
  },
  "broker.revoked": {
    en: [
      "This was revoked, for good.",
      "After a revocation no order for it is accepted any more.",
      "To offer the model again, seal and publish it anew.",
    ],
    zh: ["这已被永久撤销。", "撤销之后，不再接受与之有关的命令。", "要再次提供这个模型，请重新密封并发布。"],
  },
  "client.broker-policy": {
    en: [
      "The broker judges by another policy than yours.",
      "It is genuine, but it would release keys to machines that your policy does not name. No order was sent.",
      "Ask its operator to configure the policy that you trust.",
    ],
    zh: [
      "密钥代理采用的策略与您的不同。",
      "它是真实的，但可能把密钥放给您的策略没有列出的机器。没有发送任何命令。",
      "请让其运营者配置您所信任的策略。",
    ],
  },
  identity: {
    en: [
      "This key can't be used.",
      "The file is not an Ed25519 key as mitai keeps it, or a signature does not fit.",
      "Choose the file owner/identity.pem from the home folder of mitai. Use a current browser.",
    ],
    zh: [
      "无法使用这个密钥。",
      "文件不是 mitai 保存的 Ed25519 密钥，或签名不符。",
      "请从 mitai 的主文件夹选择 owner/identity.pem，并使用新版浏览器。",
    ],
  },
  proof: {
    en: [
      "The proof does not hold.",
      "A check of it failed, so nothing is known of the answer: it may be another model's, or somebody changed it or its proof.",
      "Do not rely on the answer. Ask for a new one with its proof.",
    ],
    zh: [
      "证明不成立。",
      "某项检验没有通过，因此对这个回答一无所知：它可能来自另一个模型，或回答、证明被人改动过。",
      "请不要依赖这个回答。请重新获取带证明的回答。",
    ],
  },
  "proof.answer-malformed": {
    en: [
      "This is no answer with a proof.",
      "The file is damaged or not complete, or it is of a kind or version that this page does not know.",
      "Get the file again. If it is newer than this page, check it with: mitai proof verify.",
    ],
    zh: [
      "这不是带证明的回答。",
      "文件已损坏或不完整，或其种类、版本是本页不认识的。",
      "请重新获取文件。如果它比本页新，请用 mitai proof verify 检验。",
    ],
  },
  "proof.card-malformed": {
    en: [
      "The model's card can't be read.",
      "The file names its model by a card that is damaged, or of a kind that this page does not know.",
      "Get the file again. If it is newer than this page, check it with: mitai proof verify.",
    ],
    zh: [
      "无法读取模型的卡片。",
      "文件用来说明模型的卡片已损坏，或是本页不认识的种类。",
      "请重新获取文件。如果它比本页新，请用 mitai proof verify 检验。",
    ],
  },
  "proof.model-differs": {
    en: [
      "The answer is another model's.",
      "The file has a proof for a model with another identity than the one that you entered.",
      "Compare the identity with what the model's publisher says. Do not take it from the file.",
    ],
    zh: [
      "这是另一个模型的回答。",
      "文件中的证明属于另一个标识的模型，与您填写的不同。",
      "请与模型发布者公布的标识核对，不要从文件中获取标识。",
    ],
  },
  "proof.sampling-differs": {
    en: [
      "The answer was not chosen as agreed.",
      "It was drawn with chance where the likeliest words were expected, or the other way round, or with another temperature, nonce or commitment.",
      "Enter what you and the server agreed on. A prover that may draw as it likes can choose among many answers.",
    ],
    zh: [
      "回答不是按约定选出的。",
      "本应取最可能的词却是随机抽取的，或者相反，或者温度、随机数、承诺与约定不同。",
      "请填写您与服务器的约定。如果可以任意抽取，证明者就能在许多回答中挑选。",
    ],
  },
  "proof.too-few-bits": {
    en: [
      "The proof is not strong enough.",
      "It has fewer than 100 bits of security, so a false one could be found with too little work.",
      "Ask for a shorter answer.",
    ],
    zh: ["证明的强度不足。", "它的安全强度低于 100 位，因此用不够多的计算就可能找到虚假的证明。", "请要求更短的回答。"],
  },
  "proof.model-unsupported": {
    en: [
      "Answers of this kind of model can't be checked here.",
      "Its configuration is of another family, or asks for something that has no proof.",
      "GPT-2, Llama and Qwen2 are supported.",
    ],
    zh: [
      "这里无法检验这类模型的回答。",
      "它的配置属于其他类别，或要求了无法证明的内容。",
      "支持 GPT-2、Llama 和 Qwen2。",
    ],
  },
  "proof.service-differs": {
    en: [
      "This is not the service that you know.",
      "What it says of itself or of this answer is not what the link pins: another model, key or tokenizer, other words than you wrote, or others than you were shown.",
      "Do not rely on it. Ask whoever gave you the link.",
    ],
    zh: [
      "这不是您所知的服务。",
      "它对自身或这个回答的说法与链接固定的不符：另一个模型、密钥或分词器，或文字与您写的、看到的不同。",
      "请不要依赖它，并询问给您链接的人。",
    ],
  },
  "proof.receipt-differs": {
    en: [
      "Receipt or proof are about something else.",
      "What the service signed does not fit this answer, this model or what was asked for; or the proof is that of another answer.",
      "Do not rely on the answer. Ask the service's operator.",
    ],
    zh: [
      "回执或证明与此不符。",
      "服务签署的内容与这个回答、这个模型或所要求的不符，或证明属于另一个回答。",
      "请不要依赖这个回答，并询问服务的运营者。",
    ],
  },
  "proof.offer-malformed": {
    en: [
      "The link names something else.",
      "What it names is no service of answers with a proof, or one of a kind that this page does not know.",
      "Ask whoever gave you the link for a new one, or use: mitai chat.",
    ],
    zh: [
      "链接指向的不是这种服务。",
      "它所指的不是提供带证明回答的服务，或其种类是本页不认识的。",
      "请向给您链接的人索取新的链接，或使用 mitai chat。",
    ],
  },
  "proof.page-unsupported": {
    en: [
      "This model can't be used in the page.",
      "The page does not know how this model's words are made, so it could not compare them with what is proven.",
      "Use: mitai chat.",
    ],
    zh: [
      "无法在网页中使用这个模型。",
      "本页不知道这个模型如何生成文字，因此无法与被证明的内容核对。",
      "请使用 mitai chat。",
    ],
  },
  "proof.queue-full": {
    en: [
      "There is no place for another proof.",
      "The service makes as many as it can. Nothing is known of the answer but that it is signed.",
      "Ask again later.",
    ],
    zh: ["没有空位生成新的证明。", "服务正在尽力生成证明。目前只知道回答有签名。", "请稍后再次索取。"],
  },
  "proof.late": {
    en: [
      "The proof did not come.",
      "The service has not made it in an hour. It may be slow, or it may not want to: nobody can tell from here.",
      "Ask again. Without its proof the answer is only signed.",
    ],
    zh: [
      "证明没有到来。",
      "服务一小时内没有生成证明。它可能很慢，也可能不愿意：从这里无法分辨。",
      "请再次索取。没有证明，回答就只是有签名而已。",
    ],
  },
  "proof.failed": {
    en: [
      "The service could not prove the answer.",
      "It says so itself, and not why. Whoever does not get a proof has a signed answer and nothing more.",
      "Ask again, or ask the operator.",
    ],
    zh: [
      "服务无法证明这个回答。",
      "这是它自己说的，没有说明原因。得不到证明，就只有一个带签名的回答。",
      "请再次索取，或询问运营者。",
    ],
  },
  "proof.answer-unknown": {
    en: [
      "The service does not know the answer any more.",
      "It keeps answers for a day, or says so to avoid a proof.",
      "Ask your question again.",
    ],
    zh: ["服务已不记得这个回答。", "它保存回答一天，也可能是为了逃避证明而这样说。", "请重新提问。"],
  },
  "proof.not-asked": {
    en: [
      "The service has forgotten that a proof was asked for.",
      "Nothing is known of the answer but that it is signed.",
      "Ask again.",
    ],
    zh: ["服务忘记了曾被索取证明。", "目前只知道回答有签名。", "请再次索取。"],
  },
  "proof.answer-too-large": {
    en: [
      "The service sends more than it may.",
      "Its answer is larger than such answers are, and was not read to its end.",
      "Do not rely on it. Ask the operator.",
    ],
    zh: ["服务发送的内容过多。", "它的应答超出了应有的大小，未被读完。", "请不要依赖它，并询问运营者。"],
  },
  "proof.tokenizer-differs": {
    en: [
      "The tokenizer is another one.",
      "The file is not the tokenizer that the model's identity names, so its words could be wrong. The proof was not checked.",
      "Choose the model's own tokenizer.json, unchanged; or leave it out, and check the proof without words.",
    ],
    zh: [
      "这是另一个分词器。",
      "该文件不是模型标识所指的分词器，显示的文字可能有误。证明尚未检验。",
      "请选择该模型自己的、未经改动的 tokenizer.json；或不使用它，只检验证明而不显示文字。",
    ],
  },
  "proof.tokenizer-malformed": {
    en: [
      "The tokenizer can't be read.",
      "The file is no tokenizer.json, or it contradicts itself. The proof was not checked.",
      "Leave it out, and check the proof without words.",
    ],
    zh: [
      "无法读取分词器。",
      "该文件不是 tokenizer.json，或内容自相矛盾。证明尚未检验。",
      "请不使用它，只检验证明而不显示文字。",
    ],
  },
  "proof.tokenizer-unsupported": {
    en: [
      "This kind of tokenizer is not known here.",
      "It makes words in a way that this page does not know. The proof was not checked.",
      "Leave it out, and check the proof without words; or show them with: mitai proof verify.",
    ],
    zh: [
      "本页不认识这种分词器。",
      "它以本页不认识的方式生成文字。证明尚未检验。",
      "请不使用它，只检验证明而不显示文字；或用 mitai proof verify 显示文字。",
    ],
  },
  "mpc.model-unsupported": {
    en: [
      "Answers of this model can't be checked here.",
      "Its configuration asks for something that is not supported, or can't be read.",
      "GPT-2, Llama and Qwen2 are supported.",
    ],
    zh: ["这里无法检验这个模型的回答。", "它的配置要求了不支持的内容，或无法读取。", "支持 GPT-2、Llama 和 Qwen2。"],
  },
  "": {
    en: [
      "Something went wrong.",
      "The page met an error that it does not know.",
      "Try again. If it persists, tell the operator the code below.",
    ],
    zh: ["出现了问题。", "页面遇到了未知的错误。", "请重试。如仍不行，请将下面的代码告知运营者。"],
  },
};

/** Say in plain words what a code means; the longest beginning (whole words) that is known. */
export function plainly(code: string, shown: Language = language()): Plain {
  let key = code;
  while (!Object.hasOwn(FAILURES, key)) key = key.replace(/(?:^|[.\-_])[^.\-_]*$/, "");
  const [what, why, next] = (FAILURES[key] ?? FAILURES[""])?.[shown] ?? ["", "", ""];
  return { what, why, next };
}
