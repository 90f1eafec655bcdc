import { WebSocket, WebSocketServer } from 'ws'
import { fork } from 'node:child_process'
import { wsDialer } from './.scratch/wire/shared/link/ws-link.js'
import { listenLinks } from './.scratch/wire/shared/link/ws-server.js'
import { encodeMessage, decodeMessage } from './.scratch/wire/shared/protocol/messages.js'
import { peerDeliverySchema } from './.scratch/wire/shared/protocol/peer.js'
const opt={maxPayload:9e6,maxFragments:16,maxBufferedChunks:8192,perMessageDeflate:false}
const limits={maxFrameBytes:9e6,maxQueuedFrames:16}
const kv = {kind:'kv',run:'run-12345678',fingerprint:'a'.repeat(64),origin:'worker-1',layer:12,start:4096,count:512,dtype:'f32',codec:'raw',crc32:0xdeadbeef}
const mode=process.argv[2], url=process.argv[3]
const N=512, B=2**21, p=new Uint8Array(B).fill(3)
const rep=(who,c,t)=>{const u=process.cpuUsage(c); console.log(mode,who,'cpu ms/GB', ((u.user+u.system)/1e3/(N*B/1e9)).toFixed(0), 'wall GB/s',(N*B/(performance.now()-t)/1e6).toFixed(2))}
if (url) {
  if (mode==='link') { const l=await wsDialer.dial(url,limits,new AbortController().signal); const c=process.cpuUsage(), t=performance.now(); for(let i=0;i<N;i++) decodeMessage(peerDeliverySchema, await l.receive(),9e6); rep('recv',c,t); l.close() }
  else { const ws=new WebSocket(url,opt); ws.binaryType='arraybuffer'; let n=0; let c,t; ws.on('open',()=>{c=process.cpuUsage();t=performance.now()}); ws.on('message',()=>{ if(++n===N){rep('recv',c,t); ws.close()} }) }
} else if (mode==='link') { const s=await listenLinks({host:'127.0.0.1',port:0,path:'/link',limits,onLink:async l=>{const c=process.cpuUsage(), t=performance.now(); for(let i=0;i<N;i++) await l.send(encodeMessage(peerDeliverySchema,kv,p)); rep('send',c,t); await l.receive(); s.close()}}); fork(process.argv[1],[mode,s.url]) }
else { const wss=new WebSocketServer({port:0,...opt}); wss.on('connection',async ws=>{ const c=process.cpuUsage(), t=performance.now(); for(let i=0;i<N;i++) await new Promise(r=>ws.send(mode==='rawcopy'?p.slice():p,r)); rep('send',c,t); ws.on('close',()=>process.exit()) }); fork(process.argv[1],[mode,'ws://127.0.0.1:'+wss.address().port]) }
