/** The badge's words. They claim what was verified and nothing else. */

import type { Language } from "../i18n.ts";

const EN = {
  checking: "Checking the machine …",
  verified: "Machine verified",
  visible: "Machine verified, memory readable by its host",
  simulated: "SIMULATED machine: proves nothing",
  refused: "Machine not verified",
  says: "Your browser checked just now that {server} runs “{workload}”, measured as this site’s policy demands. This says nothing about this site itself.",
  saysSimulated:
    "All checks ran, but the hardware is only simulated: whoever runs {server} can read everything sent to it.",
  saysVisible:
    "The machine’s memory is not shown to be protected: whoever runs {server} may read everything sent to it.",
  saysRefused: "Do not send anything confidential to {server}.",
  server: "Server",
  workload: "Workload",
  hardware: "Hardware",
  simulatedHardware: "simulated",
  policy: "Policy (SHA-256)",
  at: "Verified at",
  checks: "What was checked",
  reason: "Reason",
  step: "Failed check",
  code: "Code",
  again: "Check again",
};

const ZH: typeof EN = {
  checking: "正在验证机器…",
  verified: "机器已验证",
  visible: "机器已验证，但主机可读取其内存",
  simulated: "模拟机器：不能证明任何事",
  refused: "机器未通过验证",
  says: "您的浏览器刚刚确认：{server} 运行的是“{workload}”，其度量值符合本网站指定的策略。这不说明本网站本身是否可信。",
  saysSimulated: "所有检查均已执行，但硬件只是模拟的：{server} 的运营者可以读取发送给它的一切。",
  saysVisible: "无法证明该机器的内存受到保护：{server} 的运营者可能读取发送给它的一切。",
  saysRefused: "请不要向 {server} 发送任何机密内容。",
  server: "服务器",
  workload: "工作负载",
  hardware: "硬件",
  simulatedHardware: "模拟",
  policy: "策略（SHA-256）",
  at: "验证时间",
  checks: "检查内容",
  reason: "原因",
  step: "未通过的检查",
  code: "代码",
  again: "重新验证",
};

export type Word = keyof typeof EN;

/** The words in a language. */
export function wordsOf(language: Language): (word: Word, values?: Readonly<Record<string, string>>) => string {
  const table = language === "zh" ? ZH : EN;
  return (word, values = {}) => table[word].replace(/\{(\w+)\}/g, (whole, name: string) => values[name] ?? whole);
}
