import assert from 'node:assert/strict'
import { stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, it } from 'node:test'
import fc from 'fast-check'
import { pino } from 'pino'
import { createKey, isSecret, splitKey } from '../../../coordinator/keys/api-key.ts'
import { changeKeys, readKeys } from '../../../coordinator/keys/key-file.ts'
import { KeyRing } from '../../../coordinator/keys/key-ring.ts'
import { Strangers } from '../../../coordinator/keys/strangers.ts'
import { TokenBucket } from '../../../coordinator/keys/token-bucket.ts'
import { HeadraceError } from '../../../shared/errors.ts'
import { ManualClock } from '../../support/manual-clock.ts'
import { temporaryFolder } from '../../support/temporary.ts'

const live = () => new AbortController().signal
const stored = (name: string) => {
  const { id, key, sha256 } = createKey()
  return { key, stored: { id, name, sha256, created: '', limits: {} } }
}

describe('an API key', () => {
  it('has 256 random bits, and nothing of them in what is kept', () => {
    const [one, two] = [createKey(), createKey()]
    assert.notEqual(one.key, two.key)
    const { id, secret } = splitKey(one.key)!
    assert.equal(id, one.id)
    assert.equal(Buffer.from(secret, 'base64url').length, 32)
    assert.match(one.sha256, /^[0-9a-f]{64}$/)
    assert.ok(isSecret(secret, one.sha256))
    assert.ok(!isSecret(splitKey(two.key)!.secret, one.sha256))
  })

  it('is told from anything else', () => {
    fc.assert(
      fc.property(fc.string({ maxLength: 100 }), (text) => assert.equal(splitKey(text), undefined)),
      { seed: 20_261_123, numRuns: 500 },
    )
    const { key } = createKey()
    for (const text of [`${key}x`, key.slice(1), key.toUpperCase(), `${key}\n`]) assert.equal(splitKey(text), undefined)
  })
})

describe('the file of keys', () => {
  it('is its owner’s alone, and keeps what two write at once', async () => {
    await using folder = await temporaryFolder()
    const file = join(folder.path, 'deep', 'keys.json')
    const made = Array.from({ length: 8 }, (_, i) => stored(`n${i}`).stored)
    await Promise.all(made.map((key) => changeKeys(file, (keys) => [...keys, key], live())))
    const names = (await readKeys(file)).map(({ name }) => name)
    assert.deepEqual(names.toSorted(), made.map(({ name }) => name).toSorted())
    if (process.platform !== 'win32') assert.equal((await stat(file)).mode & 0o777, 0o600)
  })

  it('that is damaged is refused without a word of what is in it, and not overwritten', async () => {
    await using folder = await temporaryFolder()
    const file = join(folder.path, 'keys.json')
    for (const text of ['', '{"keys": "secret"}', '{"keys":[{"id":"secret"}]}', '[]']) {
      await writeFile(file, text)
      for (const action of [() => readKeys(file), () => changeKeys(file, (keys) => keys, live())])
        await assert.rejects(
          action,
          (thrown) =>
            thrown instanceof HeadraceError && thrown.code === 'bad_config' && !thrown.message.includes('secret'),
        )
    }
  })
})

describe('a ring of keys', () => {
  it('keeps its keys while its file is damaged, and loses them when it is gone', async () => {
    await using folder = await temporaryFolder()
    const file = join(folder.path, 'keys.json')
    const clock = new ManualClock()
    const { key, stored: entry } = stored('a')
    await changeKeys(file, () => [entry], live())
    const logged: string[] = []
    const ring = await KeyRing.open(file, clock, pino({}, { write: (line) => logged.push(line) }))
    const account = await ring.account(key)
    assert.equal(account?.id, entry.id)
    await writeFile(file, '{"keys": [')
    clock.advance(1)
    assert.equal(await ring.account(key), account)
    assert.match(logged.join(''), /API keys could not be read/)
    await changeKeys(join(folder.path, 'other.json'), () => [], live())
    const { rm } = await import('node:fs/promises')
    await rm(file)
    clock.advance(1)
    assert.equal(await ring.account(key), undefined)
  })
})

describe('a token bucket', () => {
  it('never gives more than its rate and one burst', () => {
    const step = fc.record({
      cost: fc.integer({ min: 1, max: 300 }),
      gap: fc.double({ min: 0, max: 100, noNaN: true }),
    })
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 200 }), fc.array(step, { maxLength: 100 }), (perMinute, steps) => {
        const bucket = new TokenBucket(perMinute, 0)
        let now = 0
        let given = 0
        for (const { cost, gap } of steps) {
          now += gap
          const wait = bucket.take(cost, now)
          assert.ok(wait >= 0)
          if (wait > 0) continue
          given += cost
          // One prompt may be longer than a minute's worth: it leaves a debt, which is paid before the next.
          assert.ok(given <= perMinute + (now * perMinute) / 60 + Math.max(0, cost - perMinute) + 1e-6)
        }
      }),
      { seed: 20_261_123, numRuns: 300 },
    )
  })

  it('lets pass after the time that it names, and not before', () => {
    const bucket = new TokenBucket(60, 0)
    assert.equal(bucket.take(50, 0), 0)
    assert.equal(bucket.take(20, 0), 10)
    assert.ok(bucket.take(20, 9.9) > 0)
    assert.equal(bucket.take(20, 10), 0)
    bucket.spend(100, 10)
    assert.equal(bucket.take(1, 10), 101)
  })
})

describe('the table of addresses', () => {
  const asks = (strangers: Strangers, address: string): boolean => {
    try {
      strangers.request(address)
      return true
    } catch (thrown) {
      assert.ok(thrown instanceof HeadraceError && thrown.code === 'rate_limit_exceeded')
      return false
    }
  }

  it('is bounded, and a flood of addresses frees nobody and forgets nobody', () => {
    const clock = new ManualClock()
    const strangers = new Strangers(2, clock)
    assert.deepEqual(
      [asks(strangers, '192.0.2.1'), asks(strangers, '192.0.2.1'), asks(strangers, '192.0.2.1')],
      [true, true, false],
    )
    let admitted = 0
    for (let i = 0; i < 20_000; i++) if (asks(strangers, `10.${i >> 16}.${(i >> 8) & 255}.${i & 255}`)) admitted++
    assert.equal(strangers.known, 4096)
    assert.equal(admitted, 4095 + 2)
    assert.equal(asks(strangers, '192.0.2.1'), false)
    clock.advance(60)
    assert.equal(asks(strangers, '198.51.100.9'), true)
    assert.ok(strangers.known < 10)
  })

  it('takes the networks of IPv6 for what they are, and mapped addresses for IPv4', () => {
    const strangers = new Strangers(1, new ManualClock())
    assert.equal(asks(strangers, '2001:db8:1:2::1'), true)
    assert.equal(asks(strangers, '2001:db8:1:2:ffff:1:2:3'), false)
    assert.equal(asks(strangers, '2001:0DB8:0001:0002::9%eth0'), false)
    assert.equal(asks(strangers, '2001:db8:1:3::1'), true)
    assert.equal(asks(strangers, '2001:db8::1'), true)
    assert.equal(asks(strangers, '192.0.2.1'), true)
    assert.equal(asks(strangers, '::ffff:192.0.2.1'), false)
  })
})
