import { engineContract } from '../../contract/engine.contract.ts'
import { huggingFaceContract } from '../../contract/engine-huggingface.contract.ts'
import { FIXTURES } from '../../support/paths.ts'

engineContract('reference')
for (const folder of FIXTURES) huggingFaceContract('reference', folder)
