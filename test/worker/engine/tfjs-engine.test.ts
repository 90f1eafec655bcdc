import { engineContract } from '../../contract/engine.contract.ts'
import { huggingFaceContract } from '../../contract/engine-huggingface.contract.ts'

engineContract('tfjs')
huggingFaceContract('tfjs', 'llama')
huggingFaceContract('tfjs', 'llama3-rope')
