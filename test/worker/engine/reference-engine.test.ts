import { engineContract } from '../../contract/engine.contract.ts'
import { huggingFaceContract } from '../../contract/engine-huggingface.contract.ts'

engineContract('reference')
huggingFaceContract('reference', 'llama')
huggingFaceContract('reference', 'llama3-rope')
