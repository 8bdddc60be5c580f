/**
 * One output stream of a run, bounded: the head and the tail are kept, a marker stands between, memory stays flat.
 *
 * The head passes through at once, so that a reader can follow a run; the tail waits in a ring until the end.
 */

const isContinuation = (byte: number | undefined): boolean => byte !== undefined && (byte & 0xc0) === 0x80;

export class BoundedOutput {
  /** Bytes that the run wrote, and of these the bytes that were left out. */
  total = 0;
  omitted = 0;
  readonly #emit: (data: Uint8Array) => void;
  readonly #tailSize: number;
  #headRoom: number;
  // Grows with what is written beyond the head, up to tailSize: an idle run costs nothing.
  #ring = Buffer.alloc(0);
  #ringTotal = 0;

  /** @param limit bytes that are kept, half of them from the start and half from the end; Infinity: all */
  constructor(limit: number, emit: (data: Uint8Array) => void) {
    this.#emit = emit;
    this.#headRoom = Math.ceil(limit / 2);
    this.#tailSize = limit === Infinity ? 0 : limit - this.#headRoom;
  }

  write(data: Uint8Array): void {
    this.total += data.length;
    let rest = data;
    if (this.#headRoom > 0) {
      const head = rest.subarray(0, this.#headRoom);
      this.#headRoom -= head.length;
      rest = rest.subarray(head.length);
      this.#emit(head);
    }
    if (rest.length > 0) this.#keep(rest);
  }

  end(): void {
    const kept = Math.min(this.#ringTotal, this.#tailSize);
    this.omitted = this.#ringTotal - kept;
    const at = this.#ringTotal <= this.#tailSize ? 0 : this.#ringTotal % this.#tailSize;
    let tail = Buffer.concat([this.#ring.subarray(at, kept), this.#ring.subarray(0, at)]);
    if (this.omitted > 0) {
      // A character cut in two at the start of the tail would read as garbage; up to three bytes more are left out.
      let cut = 0;
      while (cut < 3 && isContinuation(tail[cut])) cut += 1;
      tail = tail.subarray(cut);
      this.omitted += cut;
      this.#emit(Buffer.from(`\n[nox: ${String(this.omitted)} bytes left out]\n`));
    }
    this.#ring = Buffer.alloc(0);
    if (tail.length > 0) this.#emit(tail);
  }

  #keep(data: Uint8Array): void {
    let rest = data;
    if (rest.length > this.#tailSize) {
      // Only the last bytes can survive; the position moves on as if all had been written.
      const skipped = rest.length - this.#tailSize;
      this.#ringTotal += skipped;
      rest = rest.subarray(skipped);
      this.#grow(this.#tailSize);
    } else {
      this.#grow(Math.min(this.#tailSize, this.#ringTotal + rest.length));
    }
    while (rest.length > 0) {
      const at = this.#ringTotal % this.#tailSize;
      const part = rest.subarray(0, this.#tailSize - at);
      this.#ring.set(part, at);
      this.#ringTotal += part.length;
      rest = rest.subarray(part.length);
    }
  }

  #grow(needed: number): void {
    if (needed <= this.#ring.length) return;
    const size = Math.min(this.#tailSize, Math.max(needed, this.#ring.length * 2, 4096));
    const ring = Buffer.alloc(size);
    ring.set(this.#ring);
    this.#ring = ring;
  }
}
