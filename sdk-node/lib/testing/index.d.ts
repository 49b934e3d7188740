/// <reference lib="esnext.disposable" />
/** Real brokers for the tests of what uses Thalweg: the `thalweg` command in processes of their own, at free ports. They end with this process. */

import type { Client } from '../index.js'

export interface BrokerOptions {
  /** Where its records and its log are, and stay; without it, in a temporary one that goes with `close()` or the end of this process. */
  directory?: string | undefined
  /** UDP port; 0, the default, takes a free one. */
  port?: number | undefined
  /** The `thalweg` command; without it, see `findBinary`. */
  binary?: string | undefined
  /** Further arguments for `thalweg dev`. */
  arguments?: readonly string[] | undefined
  /** How long it may take to be ready; 30,000 by default. */
  startTimeoutMs?: number | undefined
}

export interface ClusterOptions extends Omit<BrokerOptions, 'port'> {
  /** How many; 3 by default. */
  brokers?: number | undefined
  /** Further arguments for `thalweg serve`. */
  arguments?: readonly string[] | undefined
}

/** Starts a broker; resolves once it can be reached. BrokerError with its log if that does not come to be. */
export function startBroker(options?: BrokerOptions): Promise<Broker>

/** Starts brokers that replicate to each other. */
export function startCluster(options?: ClusterOptions): Promise<Cluster>

type Hook = (run: () => Promise<void>) => unknown

/** A broker that the hooks of a test runner start and close: those of node:test, or of vitest. */
export function useBroker(hooks: { before: Hook; after: Hook } | { beforeAll: Hook; afterAll: Hook }, options?: BrokerOptions): Broker

/** A name for a topic or a group that no other test has. */
export function unique(prefix?: string): string

/** The `thalweg` command: `binary`, or THALWEG_BIN, or that of the package that came with this one, or what PATH has. */
export function findBinary(binary?: string): string

/** A `thalweg dev` of its own; topics are made on first use. */
export class Broker {
  constructor(options?: BrokerOptions)
  /** Starts it; resolves once it can be reached. */
  start(): Promise<this>
  /** Ends it in order, as an operator does (SIGTERM). Its data stays for `restart()`. */
  stop(): Promise<void>
  /** Ends it at once, as a crash does (SIGKILL). Its data stays for `restart()`. */
  kill(): Promise<void>
  /** Starts it again on the same data and port; stops it first if it runs. */
  restart(): Promise<void>
  /** Ends it, and removes its directory if that is a temporary one. */
  close(): Promise<void>
  [Symbol.asyncDispose](): Promise<void>
  /** A client of it. */
  connect(options?: { timeoutMs?: number | undefined }): Promise<Client>
  /** `thalweg://localhost:PORT`, for `connect`. */
  get address(): string
  /** Its UDP port. */
  get port(): number
  /** File with the CA to trust: `connect(…, { ca })`, or THALWEG_CA for a process under test. */
  get ca(): string
  /** `http://…/metrics` */
  get metrics(): string
  /** Where its records (`data`) and its log (`broker.log`) are. */
  get directory(): string
  /** Its process; null: it does not run. */
  get pid(): number | null
  /** What it has said since its last start, errors and warnings included; THALWEG_LOG in the environment sets the level. */
  log(): string
}

/** Brokers that replicate to each other: a topic has three copies, and one broker of three may die at any moment. */
export class Cluster {
  constructor(options?: ClusterOptions)
  /** Each broker, to kill and restart. */
  readonly brokers: readonly Broker[]
  start(): Promise<this>
  /** Ends every broker, and removes the directory if it is a temporary one. */
  close(): Promise<void>
  [Symbol.asyncDispose](): Promise<void>
  connect(options?: { timeoutMs?: number | undefined }): Promise<Client>
  /** All brokers as one address. */
  get address(): string
  get ca(): string
}

/** A broker did not start, or is not there. No ThalwegError, so that code under test that handles those does not swallow it. */
export class BrokerError extends Error {
  /** What the broker said, as far as it came to that. */
  readonly log: string
}

/** There is no `thalweg` command: the message says where it was looked for, and how to get one. */
export class BinaryNotFoundError extends BrokerError {}
