// Hands the microphone's samples to the page, a twentieth of a second at a time, with the level of each.
class Tap extends AudioWorkletProcessor {
  constructor() {
    super();
    this.size = Math.max(128, Math.round(sampleRate / 20 / 128) * 128);
    this.block = new Float32Array(this.size);
    this.filled = 0;
  }

  process(inputs) {
    const channels = inputs[0];
    if (!channels.length) return true;
    const count = channels[0].length;
    for (let k = 0; k < count; k++) {
      let sum = 0;
      for (const channel of channels) sum += channel[k];
      this.block[this.filled++] = sum / channels.length;
      if (this.filled === this.size) this.send();
    }
    return true;
  }

  send() {
    let peak = 0;
    let power = 0;
    for (const sample of this.block) {
      peak = Math.max(peak, Math.abs(sample));
      power += sample * sample;
    }
    const samples = this.block;
    this.block = new Float32Array(this.size);
    this.filled = 0;
    this.port.postMessage({ samples, peak, rms: Math.sqrt(power / samples.length) }, [samples.buffer]);
  }
}

registerProcessor("tap", Tap);
