import { describe, expect, it } from 'vitest';
import { identityOf } from './authenticator.ts';

const user = {
  username: 'system:serviceaccount:shop:default',
  extra: {
    'authentication.kubernetes.io/pod-name': ['virt-launcher-db-x'],
    'authentication.kubernetes.io/pod-uid': ['u-1'],
  },
};
const good = { authenticated: true, audiences: ['nasmigration.io'], user };

describe('identity from a TokenReview', () => {
  it('is the pod the token is bound to', () => {
    expect(identityOf({ status: good })).toEqual({
      identity: { namespace: 'shop', podName: 'virt-launcher-db-x', podUid: 'u-1' },
    });
  });

  it.each([
    ['nothing was answered', {}],
    ['the token is not valid', { status: { ...good, authenticated: false } }],
    ['it is for another audience', { status: { ...good, audiences: ['https://kubernetes.default.svc'] } }],
    ['the API server does not check audiences', { status: { authenticated: true, user } }],
    ['it is a person', { status: { ...good, user: { ...user, username: 'system:admin' } } }],
    ['it is not bound to a pod', { status: { ...good, user: { username: user.username } } }],
  ])('is refused when %s', (_what, review) => {
    expect(identityOf(review)).toHaveProperty('refused');
  });
});
