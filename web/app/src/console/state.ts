/**
 * The console's state and everything that changes it; pages show it and call it. It tells `change` after each change.
 *
 * - Nothing is asked of a platform before the user's device has pinned a policy to verify it with.
 * - Each machine stands for itself: a refused replica leaves the others' verdicts as they are.
 * - The owner's identity is kept for as long as the page is open; `close` forgets it.
 */
import type { Failure } from "../conversations.ts";
import { keepPin, type Offer, type Pin, type Policy, type Source, type Standing, standing } from "../pinning.ts";
import { failureOf } from "../state.ts";
import { type Backend, BROKER, type Entry, type Ledger, type Machine, NEWEST, type Owner } from "./model.ts";
import { Identity } from "./signing.ts";

export type Found<T> =
  | { readonly kind: "waiting" }
  | { readonly kind: "found"; readonly value: T }
  | { readonly kind: "failed"; readonly failure: Failure };

export type Connect = (offer: Offer, pin: Pin) => Backend;

const WAITING = { kind: "waiting" } as const;

export class ConsoleState extends EventTarget {
  offer: Found<Offer> = WAITING;
  standing: Standing = { kind: "none" };
  backend: Backend | undefined;
  /** The broker first, then the replicas in the gateway's order. */
  machines: ReadonlyMap<string, Found<Machine>> = new Map();
  replicas: Found<readonly string[]> = WAITING;
  ledger: Found<Ledger> = WAITING;
  /** The newest entries, at most `NEWEST`, oldest first; see `readRecent`. */
  recent: Found<readonly Entry[]> = WAITING;
  owner: Owner | undefined;
  private link: string | undefined;
  private recentOf: Ledger | undefined;

  constructor(private readonly connect: Connect) {
    super();
  }

  changed(): void {
    this.dispatchEvent(new Event("change"));
  }

  /** Begin with what the page was offered, what is pinned, and what the link says. */
  async start(offer: Promise<Offer>, pin: Pin | undefined, link: string | undefined): Promise<void> {
    this.offer = await found(offer);
    this.link = link;
    const settled = await found(this.settle(pin));
    if (settled.kind === "failed") this.offer = settled; // no policy
    this.changed();
  }

  /** The user's decision for a policy. */
  async choose(policy: Policy, source: Source): Promise<void> {
    this.link = undefined;
    await this.settle({ ...policy, source });
  }

  private async settle(pin: Pin | undefined): Promise<void> {
    const offer = this.offer.kind === "found" ? this.offer.value : undefined;
    this.standing = standing(offer?.policy, pin, this.link);
    if (this.standing.kind === "use" && offer) {
      this.backend = this.connect(offer, this.standing.pin);
      keepPin(this.standing.pin);
    }
    this.changed();
    await this.refresh();
  }

  /** Verify everything anew. */
  async refresh(): Promise<void> {
    await Promise.all([this.verify(BROKER).then(() => this.readLedger()), this.findReplicas()]);
  }

  private async findReplicas(): Promise<void> {
    const { backend } = this;
    if (!backend) return;
    this.replicas = await found(backend.replicas());
    const names = this.replicas.kind === "found" ? this.replicas.value : [];
    const kept = [BROKER, ...names].map((name) => [name, this.machines.get(name) ?? WAITING] as const);
    this.machines = new Map(kept);
    this.changed();
    await Promise.all(names.map((name) => this.verify(name)));
  }

  async verify(name: string): Promise<void> {
    if (!this.backend) return;
    this.note(name, WAITING);
    this.note(name, await found(this.backend.verify(name)));
  }

  private note(name: string, machine: Found<Machine>): void {
    this.machines = new Map([...this.machines, [name, machine]]);
    this.changed();
  }

  async readLedger(): Promise<void> {
    if (!this.backend) return;
    this.ledger = WAITING;
    this.changed();
    this.ledger = await found(this.backend.ledger());
    this.changed();
  }

  /** Read the newest entries, once for each head. */
  async readRecent(): Promise<void> {
    if (this.ledger.kind !== "found" || this.recentOf === this.ledger.value) return;
    const ledger = this.ledger.value;
    this.recentOf = ledger;
    this.recent = WAITING;
    const { size } = ledger.head;
    const recent = await found(ledger.entries(Math.max(0, size - NEWEST), size));
    if (this.recentOf !== ledger) return;
    this.recent = recent;
    this.changed();
  }

  /** Become the party of a key file; throws `MitaiError` for anything else, or when the broker is not to be trusted. */
  async open(pem: string): Promise<void> {
    const identity = await Identity.open(pem);
    if (!this.backend) return;
    this.owner = await this.backend.owner(identity);
    this.changed();
  }

  /** Forget the identity. */
  close(): void {
    this.owner = undefined;
    this.changed();
  }

  /** Whether anything that was verified is a simulation. */
  get simulated(): boolean {
    return [...this.machines.values()].some((machine) => machine.kind === "found" && machine.value.findings.simulated);
  }
}

/** What became of something that was asked for. */
export async function found<T>(asked: Promise<T>): Promise<Found<T>> {
  try {
    return { kind: "found", value: await asked };
  } catch (error) {
    return { kind: "failed", failure: failureOf(error) };
  }
}
