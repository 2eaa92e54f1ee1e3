// Addresses of pods.

import { describe, expect, it } from 'vitest';
import { podAddresses } from './pod-network.ts';

describe('podAddresses', () => {
  it('gives each pod a link of its own', () => {
    expect(podAddresses(1)).toEqual({ pod: '10.78.1.2', node: '10.78.1.1' });
    expect(podAddresses(254)).toEqual({ pod: '10.78.254.2', node: '10.78.254.1' });
  });

  it.each([0, 255, 1.5])('refuses %d', (number) => {
    expect(() => podAddresses(number)).toThrow(RangeError);
  });
});
