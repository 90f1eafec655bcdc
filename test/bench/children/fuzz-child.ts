import { Position } from '../../fuzz/position.ts'
import { type Stretch, sweep } from '../../fuzz/sweep.ts'

/** Reads a stretch of inputs, in a process that may be aborted by them; argument: the file that says where it is. */
const position = new Position(process.argv[2]!)
process.once('message', (of: Stretch) => {
  sweep(of, (index) => position.set(index)).then((swept) => {
    position.close()
    process.send!(swept, () => process.disconnect())
  })
})
