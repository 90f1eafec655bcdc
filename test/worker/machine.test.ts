import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { machineName } from '../../worker/machine.ts'

describe('the name of a machine', () => {
  it('is the same for all workers that only it can reach', () => {
    for (const address of ['127.0.0.1', '127.77.1.2', '::1', '[::1]', 'localhost', '0.0.0.0', '::'])
      assert.equal(machineName(address, 'pi'), 'pi')
  })

  it('tells machines of one name apart by their addresses', () => {
    assert.notEqual(machineName('10.0.0.2', 'pi'), machineName('10.0.0.3', 'pi'))
    assert.equal(machineName('10.0.0.2', 'pi'), 'pi (10.0.0.2)')
  })
})
